"""The kinds of value that say where something answers: addresses, host names, URLs, and the key that goes with one."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from supervisord.config.fields import TEXT, checked, parse_text
from supervisord.config.units import EnvironmentText, quote

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\s\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?")
_VISIBLE = re.compile(r"[!-~]+")  # RFC 3986 and RFC 9110: what a URL, or a credential in a header, can be made of


def parse_address(value: object) -> tuple[str, int]:
    """IP address and port. `localhost` is 127.0.0.1, so that one socket and one port belong to it."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{quote(value)} is not an address; write host:port, such as 127.0.0.1:8411")
    host = match["v6"] or match["host"]
    if host.lower() == "localhost":
        return "127.0.0.1", int(match["port"])
    if not _is_address(host):
        raise ValueError(f"{quote(host)} is not an IP address; use 127.0.0.1, or the address of a network interface")
    return host, int(match["port"])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback if address.version == 4 else host == "::1"


def stays_here(host: str) -> bool:
    """Whether what is sent to `host` never leaves this machine."""
    return host == "localhost" or _is_loopback(host)


def parse_host_name(value: object) -> str:
    """A name or address as browsers put it in the Host header, without a port, in small letters."""
    text = parse_text(value).lower()
    if "*" in text:
        raise ValueError(f"{quote(value)} would let any web page reach the models (DNS rebinding); name each host")
    if _HOST_NAME.fullmatch(text):
        return text.removesuffix(".")
    raise ValueError(f"{quote(value)} is not a host name; write the name alone, such as workstation.lan")


def parse_url(value: object) -> str:
    """A base URL without a slash at its end."""
    text = parse_text(value)
    parts = _split(text)
    if parts is None:
        raise ValueError(f"{quote(value)} is not a base URL; write https://HOST/v1 or http://127.0.0.1:PORT/v1")
    if "@" in parts.netloc:
        raise ValueError("holds a user name or password; take it out, and write key: ${env:NAME}")
    if parts.query or parts.fragment:
        raise ValueError(f"{quote(value)} has a ? or # part; write only what stands before /chat/completions")
    return text.rstrip("/")


def _split(text: str) -> SplitResult | None:
    """The parts of an http or https URL with a host and a sound port."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:  # an open bracket, a port that is none
        return None
    sound = parts.scheme in {"http", "https"} and _VISIBLE.fullmatch(text) and port != 0
    return parts if sound and host and (":" in host or _HOST_NAME.fullmatch(host)) else None


def parse_http_path(value: object) -> str:
    """The path of a probe."""
    text = parse_text(value)
    if text.startswith("/") and _VISIBLE.fullmatch(text):
        return text
    raise ValueError(f"{quote(value)} is not a path; write it from the first slash on, such as /health")


def parse_key(value: object) -> str:
    """A secret, from the environment only; empty for none."""
    if not isinstance(value, EnvironmentText) or not value.whole:
        raise ValueError("a key does not belong in this file; write ${env:NAME}, and set that variable for the daemon")
    if value and not _VISIBLE.fullmatch(value):
        raise ValueError(f"{quote(value)} has a space, a line end or a character no header can hold; set it anew")
    return str(value)


Address = Annotated[tuple[str, int], *checked(parse_address, TEXT | {"pattern": r"^.+:[0-9]{1,5}$"})]
HostName = Annotated[str, *checked(parse_host_name, TEXT)]
Url = Annotated[str, *checked(parse_url, TEXT | {"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://.+$"})]
HttpPath = Annotated[str, *checked(parse_http_path, TEXT | {"pattern": "^/"})]
Key = Annotated[str, *checked(parse_key, TEXT | {"pattern": r"^\$\{env:[A-Za-z_][A-Za-z0-9_]*(:-)?\}$"})]
