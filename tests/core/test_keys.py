"""Who holds a key, and what that does to a request."""

import pytest

from supervisord.core.errors import UnauthorizedError
from supervisord.core.job import Priority
from supervisord.core.keys import Key, Keyring, digest_of, held_to

ADA, BOB = Key("ada", digest_of("secret-of-ada")), Key("bob", digest_of("secret-of-bob"))
RING = Keyring((ADA, BOB))


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer secret-of-ada"}, ADA),
        ({"authorization": "bearer  secret-of-bob "}, BOB),
        ({"x-api-key": "secret-of-bob"}, BOB),
        ({"authorization": "Basic secret-of-ada", "x-api-key": "secret-of-ada"}, ADA),
    ],
)
def test_holders(headers: dict[str, str], key: Key) -> None:
    assert RING.holder(headers) is key


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "secret-of-ada"},
        {"authorization": "Bearer secret-of-adA"},
        {"authorization": "Bearer secret-of-ada, Bearer secret-of-bob"},
        {"authorization": "Bearer wrong", "x-api-key": "secret-of-ada"},
        {"x-api-key": "Bearer secret-of-ada"},
        {"x-api-key": "\ufffd"},
    ],
)
def test_others(headers: dict[str, str]) -> None:
    with pytest.raises(UnauthorizedError) as raised:
        RING.holder(headers)
    assert "secret-of" not in raised.value.message
    with pytest.raises(UnauthorizedError):
        Keyring(()).holder(headers)


def test_neither_secret_nor_digest_is_shown() -> None:
    assert repr(ADA.digest) not in repr(ADA)
    assert "secret" not in repr(ADA)


@pytest.mark.parametrize(
    ("most", "asked", "told"),
    [
        (None, None, None),
        (None, "high", "high"),
        (Priority.NORMAL, None, "normal"),
        (Priority.NORMAL, "high", "normal"),
        (Priority.NORMAL, " Batch ", "batch"),
        (Priority.HIGH, "batch", "batch"),
        (Priority.BATCH, "normal", "batch"),
        (Priority.NORMAL, "now", "now"),
    ],
)
def test_priority_is_at_most_that_of_the_key(most: Priority | None, asked: str | None, told: str | None) -> None:
    headers = {} if asked is None else {"x-priority": asked}
    assert held_to(Key("a", b"", most), headers).get("x-priority") == told


def test_the_client_is_the_key_and_its_secret_goes_no_further() -> None:
    headers = {"authorization": "Bearer x", "x-api-key": "x", "x-client": "bob", "accept": "a"}
    assert held_to(ADA, headers) == {"x-client": "ada", "accept": "a"}
