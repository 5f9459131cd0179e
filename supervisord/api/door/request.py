"""A request as a value, and how its head is read."""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import msgspec

from supervisord.core.errors import InvalidRequestError
from supervisord.core.keys import Key

MOST_FIELDS = 128  # the official SDKs send about 20
LONGEST_TARGET = 8192  # bytes; as nginx and aiohttp have it

Fields = Sequence[tuple[bytes, bytes]]


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request. `path` is decoded and begins with "/", but for `OPTIONS *`; `query` is as it came.

    `headers` have lower-case names. What came more than once is joined by ", " (RFC 9110, 5.3), so that a doubled Host
    is no host. `authority` is the host of a target in absolute form, which then counts as well as Host; else empty.
    """

    method: str
    path: str
    query: str
    authority: str
    headers: Mapping[str, str]
    body: bytes
    http_1_1: bool
    keep_alive: bool
    params: Mapping[str, str] = {}  # what the template of its path names
    key: Key | None = None  # whose it is, where keys have been given out

    @property
    def owner(self) -> str | None:
        """The only client whose things it may see; None: all of them, for nobody can be told apart."""
        return None if self.key is None else self.key.name


def build(method: str, target: bytes, fields: Fields, body: bytes, *, version: str, keep_alive: bool) -> Request:
    """Raises InvalidRequestError for what the parser lets pass and nobody may send."""
    if len(target) > LONGEST_TARGET:
        raise InvalidRequestError(f"The target of the request is longer than {LONGEST_TARGET} bytes.")
    if len(fields) > MOST_FIELDS:
        raise InvalidRequestError(f"The request has more than {MOST_FIELDS} headers.")
    headers = {name.decode("ascii").lower(): value.decode("utf-8", "replace").strip() for name, value in fields}
    if len(headers) != len(fields):
        headers = _joined(fields)
    if version != "1.1" or "transfer-encoding" in headers:
        _check_framing(version, headers)
    authority, path, query = split(target.decode("ascii", "replace"))
    return Request(method, path, query, authority, headers, body, version == "1.1", keep_alive)


def _joined(fields: Fields) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("utf-8", "replace").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _check_framing(version: str, headers: Mapping[str, str]) -> None:
    """What another server in front of this one could see ending elsewhere is refused (RFC 9112, 6.1 and 11.2)."""
    if version not in {"1.0", "1.1"}:
        raise InvalidRequestError("This is not HTTP/1.0 or HTTP/1.1.")
    coding = headers.get("transfer-encoding")
    if coding is not None and (coding.lower() != "chunked" or version == "1.0"):
        raise InvalidRequestError("The only transfer coding that is understood is chunked, and that with HTTP/1.1.")


def split(target: str) -> tuple[str, str, str]:
    """Authority, path and query of a target in origin form ("/v1/models") or absolute form ("http://host/v1/models")."""
    authority = ""
    if not target.startswith("/") and "://" in target:
        authority, slash, rest = target.partition("://")[2].partition("/")
        target = slash + rest or "/"
    path, _, query = target.partition("#")[0].partition("?")
    return authority, unquote(path) if "%" in path else path, query


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """The head of a request that does not ask for another protocol. RFC 9110, 7.8: a server may ignore the wish.

    Java's HTTP client asks every server for HTTP/2 so, with its first POST already.
    """
    kept = [(name, value) for name, value in fields if name.lower() not in {b"upgrade", b"connection"}]
    options = [o.strip() for name, value in fields if name.lower() == b"connection" for o in value.split(b",")]
    if wanted := b", ".join([option for option in options if option.lower() != b"upgrade"]):
        kept.append((b"connection", wanted))
    lines = b"".join([b"%b: %b\r\n" % field for field in kept])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), lines)
