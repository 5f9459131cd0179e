"""The records are plain values: what one side writes, the other compares."""

import dataclasses

import pytest

from supervisord.core import record
from supervisord.core.record import EventKind, EventRecord, Identity, Usage

EVERY = [kind for _, kind in vars(record).items() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_records_are_frozen_and_slotted(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert hasattr(kind, "__slots__")


def test_what_nobody_told_is_none() -> None:
    assert set(dataclasses.asdict(Identity()).values()) == {None}
    assert set(dataclasses.asdict(Usage()).values()) == {None}


def test_events_do_not_share_their_data() -> None:
    one, other = (EventRecord(1.0, EventKind.RETRY, "x") for _ in range(2))

    assert one == other
    assert one.data is not other.data


def test_kinds_of_events_are_distinct_words() -> None:
    values = [kind.value for kind in EventKind]

    assert len(set(values)) == len(values)
    assert all(value == value.lower().strip() for value in values)
