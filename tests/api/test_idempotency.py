"""The Idempotency-Key of a request."""

from hashlib import sha256

import pytest

from supervisord.api.door import Request
from supervisord.api.idempotency import LONGEST_KEY, key_in, used_in
from supervisord.core.errors import InvalidRequestError
from supervisord.engine.work.idempotency import Used


def request(body: bytes, path: str = "/v1/batches", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", path, "", "", named, body, http_1_1=True, keep_alive=True)


def test_a_key_is_printable_and_not_too_long() -> None:
    assert key_in({}) == ""
    for good in ("k", "night of the 3rd", "x" * LONGEST_KEY, "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        assert key_in({"idempotency-key": good}) == good
    for bad in ("", "x" * (LONGEST_KEY + 1), "a\tb", "\x00"):
        with pytest.raises(InvalidRequestError) as told:
            key_in({"idempotency-key": bad})
        assert told.value.param == "Idempotency-Key"


@pytest.mark.parametrize("size", [0, 10, 3 * 1024 * 1024])
async def test_what_is_asked_with_it_is_its_path_and_all_of_its_body(size: int) -> None:
    assert await used_in(request(b"x" * size)) is None
    used = await used_in(request(b"x" * size, idempotency_key="k"))
    assert used == Used("k", sha256(b"/v1/batches\n" + b"x" * size).hexdigest())
    for other in (request(b"x" * size + b"y", idempotency_key="k"), request(b"x" * size, "/v1", idempotency_key="k")):
        assert await used_in(other) != used
