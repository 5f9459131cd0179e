"""What of a request depends on its address alone: worked out once for each address, not for each request."""

import re
from dataclasses import dataclass, field

from supervisord.runtimes.base import Address

Key = tuple[str, int, bool]
"""Host, port, TLS: what a kept connection can be used again for."""

_HOST = re.compile(r"[A-Za-z0-9._:%-]+")  # a name, an IPv4 or an IPv6 address, that with a zone too
_DEFAULT_PORTS = {False: 80, True: 443}


@dataclass(frozen=True, slots=True)
class Destination:
    """`fields` are the Host line and the address's own headers, each with its line break; `lines` counts them."""

    key: Key
    host: str  # as it is looked up and as its certificate names it
    port: int
    tls: bool
    prefix: str
    fields: str = field(repr=False)
    lines: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.host}:{self.port}"


def key_of(address: Address) -> Key:
    return address.host, address.port, address.tls


def destination_of(address: Address) -> Destination:
    """Raises ValueError for what cannot be put into HTTP. The message names no header's value: keys are among them."""
    host = _ascii(address.host)
    shown = f"{address.host!r} port {address.port}"
    if not _HOST.fullmatch(host):
        raise ValueError(f"{shown}: no such host can exist; correct the address")
    if not 0 < address.port < 65536:  # uvloop would connect to the port modulo 65536
        raise ValueError(f"{shown}: no such port can exist; correct the address")
    if not _fits_a_line(address.prefix) or " " in address.prefix:
        raise ValueError(f"{shown}: its path has a blank or a character that is not ASCII; write it as %XX")
    if not all(_fits_a_line(name) and _fits_a_line(value) for name, value in address.headers):
        raise ValueError(f"{shown}: a header for it, perhaps the key, holds a line break or is not ASCII; correct it")
    lines = [f"host: {_in_url(host, address)}", *(f"{name}: {value}" for name, value in address.headers)]
    fields = "".join(f"{line}\r\n" for line in lines)
    return Destination(key_of(address), host, address.port, address.tls, address.prefix, fields, len(lines))


def _ascii(host: str) -> str:
    """A name in other letters as DNS knows it; what is none is returned as it is."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host


def _in_url(host: str, address: Address) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if address.port == _DEFAULT_PORTS[address.tls] else f"{bracketed}:{address.port}"


def _fits_a_line(text: str) -> bool:
    return text.isascii() and text.isprintable()
