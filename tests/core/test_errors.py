"""The tree of errors."""

import inspect

import pytest

from supervisord.core import errors
from supervisord.core.errors import QueueFullError, SpawnError, SupervisorError

EVERY = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SupervisorError)]


def made(kind: type[SupervisorError]) -> SupervisorError:
    if kind is QueueFullError:
        return QueueFullError("full", depth=3, retry_after_s=2.0)
    if kind is SpawnError:
        return SpawnError("no such program", permanent=True)
    return kind("what happened", param="model", retry_after_s=1.5)


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in EVERY]

    assert len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)


@pytest.mark.parametrize("kind", EVERY)
def test_each_says_its_code_itself_and_carries_its_message(kind: type[SupervisorError]) -> None:
    error = made(kind)

    assert "code" in vars(kind)
    assert str(error) == error.message


def test_what_a_client_may_read_from_an_error() -> None:
    error = made(errors.InvalidRequestError)
    full = QueueFullError("full", depth=3, retry_after_s=2.0)

    assert (error.param, error.retry_after_s) == ("model", 1.5)
    assert (full.depth, full.retry_after_s, full.param) == (3, 2.0, None)
    assert SpawnError("x", permanent=True).permanent
    assert made(SupervisorError).args == ("what happened",)


def test_errors_name_their_origin_by_their_family() -> None:
    families = (errors.InvalidRequestError, errors.RefusedError, errors.AttemptFailedError, errors.StartupError)
    alone = {kind for kind in EVERY if not issubclass(kind, families)}

    assert alone == {SupervisorError, SpawnError, errors.ProbeError, errors.SensorError}
    for kind in EVERY:
        assert sum(issubclass(kind, family) for family in families) <= 1
