"""Where the fields of a form are."""

import pytest

from supervisord.api.form import LONGEST_HEAD, MOST_FIELDS, boundary_of, fields
from supervisord.core.errors import InvalidRequestError, UnsupportedMediaTypeError

HEAD = b'Content-Disposition: form-data; name="%b"\r\n\r\n'


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n%b\r\n" % part for part in parts) + end


def found(body: bytes) -> list[tuple[str, bytes]]:
    return [(field.name, body[field.begins : field.ends]) for field in fields(body, b"x")]


def test_each_field_is_where_it_is() -> None:
    body = form(
        HEAD % b"a" + b"1", b"X-Other: y\r\n" + HEAD % b"a" + b"\r\n--y\r\n", HEAD % b"", HEAD % b"a\\" + b"--x"
    )
    assert found(body) == [("a", b"1"), ("a", b"\r\n--y\r\n"), ("", b""), ("a\\", b"--x")]
    assert found(b"--x--") == []
    assert found(form(HEAD % b"a" + b"1", end=b"--x--trailing")) == [("a", b"1")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"preamble\r\n--x--",
        b"--x",
        b"--x\r\n",
        b"--xy\r\n" + HEAD % b"a" + b"1\r\n--xy--",
        form(HEAD % b"a" + b"1", end=b""),
        form(HEAD % b"a" + b"1", end=b"--x"),
        form(b"X-Other: y\r\n\r\n1"),
        form(b"no head at all"),
        form(b"X-Long: " + b"y" * LONGEST_HEAD + b"\r\n" + HEAD % b"a"),
        form(*[HEAD % b"a"] * (MOST_FIELDS + 1)),
    ],
)
def test_what_is_broken_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="The form is broken"):
        found(body)


def test_the_boundary_is_that_of_the_head() -> None:
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"
    for other in (
        "",
        "application/json",
        "multipart/mixed; boundary=x",
        "multipart/form-data",
        f"multipart/form-data; boundary={'x' * 71}",
    ):
        with pytest.raises(UnsupportedMediaTypeError):
            boundary_of(other)
