"""Whose requests are let in."""

import re

import pytest

from supervisord.api.door.request import Request
from supervisord.api.guard import Doorkeeper
from supervisord.core.errors import ForbiddenHostError, ForbiddenOriginError

DOOR = Doorkeeper(frozenset({"Workstation.lan", "192.0.2.7"}))


def asked(authority: str = "", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "/", "", authority, named, b"", http_1_1=True, keep_alive=True)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.:80", "127.0.0.1:8080", "127.1.2.3", "[::1]:80", "workstation.lan", "192.0.2.7:1"]
)
def test_names_of_this_machine(host: str) -> None:
    DOOR.admit(asked(host=host))
    DOOR.admit(asked(host=host, origin=f"http://{host}"))
    DOOR.admit(asked(host, host=host))


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "localhost, localhost", "[::2]:80", "10.0.0.1", "\ufffd"]
)
def test_names_of_others(host: str) -> None:
    with pytest.raises(ForbiddenHostError):
        DOOR.admit(asked(host=host))
    if host:
        with pytest.raises(ForbiddenHostError, match=re.escape(f'"{host}", the host in the target')):
            DOOR.admit(asked(host, host="localhost"))


def test_no_host_at_all() -> None:
    with pytest.raises(ForbiddenHostError):
        DOOR.admit(asked())


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://[::1", "", "http://localhost.evil.example"])
def test_pages_of_others(origin: str) -> None:
    with pytest.raises(ForbiddenOriginError):
        DOOR.admit(asked(host="localhost", origin=origin))
    with pytest.raises(ForbiddenOriginError):
        DOOR.admit(asked(host="localhost", sec_fetch_site="cross-site"))
