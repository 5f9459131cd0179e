"""Mistakes in where a remote backend is and in its key, which no message shows."""

import pytest

from supervisord.config.places import Surroundings
from tests.fakes.config_problems import problems

OPEN_KEY = "a key does not belong in this file; write ${env:NAME}, and set that variable for the daemon"
NOT_URL = "is not a base URL; write https://HOST/v1 or http://127.0.0.1:PORT/v1"


def remote(lines: str) -> str:
    """A file with one remote backend, whose fourth line begins `lines`."""
    return f"backends:\n  a:\n    runtime: remote\n    {lines}\n"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.example.com", f'"api.example.com" {NOT_URL}'),
        ("ftp://a/v1", f'"ftp://a/v1" {NOT_URL}'),
        ("https://", f'"https://" {NOT_URL}'),
        ("https://a:port", f'"https://a:port" {NOT_URL}'),
        ("https://a:0", f'"https://a:0" {NOT_URL}'),
        ("'https://[::1'", f'"https://[::1" {NOT_URL}'),
        ("https://a b", f'"https://a b" {NOT_URL}'),
        ("https://ä.example", f'"https://ä.example" {NOT_URL}'),
        ("https://-a", f'"https://-a" {NOT_URL}'),
        ("https://ada:pw@a/v1", "holds a user name or password; take it out, and write key: ${env:NAME}"),
        (
            "https://a/v1?x=1",
            '"https://a/v1?x=1" has a ? or # part; write only what stands before /chat/completions',
        ),
        ("${env:KEY}", f"the value of ${{env:KEY}} {NOT_URL}"),
        ("5", '"5" is not text; put it in quotes'),
        (
            "http://127.0.0.1:8411/v1",
            "is this daemon's own address: requests would go in circles; give that of the other server",
        ),
    ],
)
def test_an_url(url: str, message: str) -> None:
    assert problems(remote(f"url: {url}")) == [("backends.a.url", message, 4)]


CLEAR = "http would send the key in clear; use https, or a tunnel with an end on 127.0.0.1"


@pytest.mark.parametrize(
    ("url", "key", "where", "message"),
    [
        ("https://a/v1", "sk-literal", "key", OPEN_KEY),
        ("https://a/v1", "sk-${env:KEY}", "key", OPEN_KEY),
        ("https://a/v1", "${env:NO:-sk-literal}", "key", OPEN_KEY),
        ("https://a/v1", "5", "key", OPEN_KEY),
        (
            "https://a/v1",
            "${env:LINES}",
            "key",
            "the value of ${env:LINES} has a space, a line end or a character no header can hold; set it anew",
        ),
        ("http://192.168.1.5/v1", "${env:KEY}", "url", CLEAR),
        ("http://localhost.example/v1", "${env:KEY}", "url", CLEAR),
    ],
)
def test_a_key(url: str, key: str, where: str, message: str) -> None:
    around = Surroundings({"KEY": "sk-secret", "LINES": "sk-1\n"}, "/", root=False, folder="/")
    found = problems(remote(f"url: {url}\n    key: {key}"), around)
    assert found == [(f"backends.a.{where}", message, 4 if where == "url" else 5)]
