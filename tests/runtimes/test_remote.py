"""An address that is not ours to start: where it is, what it is asked, and that its key stays with it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.ladder import Footprint
from supervisord.core.record import Identity
from supervisord.runtimes.base import Address, BackendSpec, HttpAnswer, Readiness, RemoteOptions, RuntimeKind
from supervisord.runtimes.remote import Remote, base_address

REMOTE = Remote()
KEY = "sk-secret-0123"


def spec(base_url: str = "https://api.example.com/v1", *, key: str = "", health_path: str = "/models") -> BackendSpec:
    options = RemoteOptions(base_url, key, health_path)
    return BackendSpec(name="cloud", runtime=RuntimeKind.REMOTE, model="", models=("cloud",), remote=options)


# --- where it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://api.example.com/v1", Address("api.example.com", 443, tls=True)),
        ("https://api.example.com/v1/", Address("api.example.com", 443, tls=True)),
        ("https://api.example.com", Address("api.example.com", 443, tls=True)),
        ("https://api.example.com/", Address("api.example.com", 443, tls=True)),
        ("HTTPS://API.example.com/v1", Address("api.example.com", 443, tls=True)),
        (" https://api.example.com/v1\n", Address("api.example.com", 443, tls=True)),
        ("https://api.example.com:8443/v1", Address("api.example.com", 8443, tls=True)),
        ("http://10.0.0.7:8411/v1", Address("10.0.0.7", 8411)),
        ("http://workstation/v1", Address("workstation", 80)),
        ("http://[::1]:8411/v1", Address("::1", 8411)),
        ("https://[2001:db8::1]/v1", Address("2001:db8::1", 443, tls=True)),
        ("https://openrouter.example/api/v1", Address("openrouter.example", 443, tls=True, prefix="/api")),
        ("https://openrouter.example/api/", Address("openrouter.example", 443, tls=True, prefix="/api")),
        ("https://h/a//v1//", Address("h", 443, tls=True, prefix="/a")),
        ("https://h/v1/v1", Address("h", 443, tls=True, prefix="/v1")),
        ("https://h/v12", Address("h", 443, tls=True, prefix="/v12")),
        ("https://h/apiv1", Address("h", 443, tls=True, prefix="/apiv1")),
    ],
)
def test_address_from_the_url_as_its_users_write_it(url: str, address: Address) -> None:
    assert REMOTE.address(spec(url), 0) == address
    assert base_address(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "address of HTTP"),
        ("api.example.com/v1", "address of HTTP"),
        ("localhost:8000/v1", "address of HTTP"),
        ("ftp://h/v1", "address of HTTP"),
        ("https:///v1", "address of HTTP"),
        ("https://h:port/v1", "not a URL"),
        ("https://h:70000/v1", "not a URL"),
        ("https://h:0/v1", "port 0"),
        ("https://[::1/v1", "not a URL"),
        (f"https://user:{KEY}@h/v1", "user or a password"),
        (f"https://{KEY}@h/v1", "user or a password"),
        (f"https://h/v1?api-key={KEY}", "cut it off"),
        ("https://h/v1#x", "cut it off"),
    ],
)
def test_what_is_no_such_url_is_told_without_its_secrets(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        base_address(url, KEY)
    assert KEY not in str(refused.value)
    assert refused.value.__cause__ is None


@given(st.text(max_size=30))
def test_no_url_does_anything_but_that(url: str) -> None:
    try:
        address = base_address(url)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert address.host
        assert 0 < address.port < 65536


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, f"{KEY}\n", f" {KEY} "])
def test_the_key_goes_with_every_request(key: str) -> None:
    assert REMOTE.address(spec(key=key), 0).headers == (("authorization", f"Bearer {KEY}"),)


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_without_a_key_nothing_is_said(key: str) -> None:
    assert REMOTE.address(spec(key=key), 0).headers == ()


@pytest.mark.parametrize("key", [f"{KEY}\nx: 1", f"{KEY}\x00", f"{KEY}é"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(ValueError, match="plain ASCII") as refused:
        base_address("https://h/v1", key)
    assert KEY not in str(refused.value)


def test_nothing_shows_the_key() -> None:
    described = spec(key=KEY)
    assert KEY not in repr(described)
    assert KEY not in repr(REMOTE.address(described, 0))
    assert KEY not in f"{described.remote} {described}"


# --- health and identity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["https://h/v1", "https://h", "https://h/api/v1"])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/models", "/v1/models"),
        ("/models/gpt-x", "/v1/models/gpt-x"),
        ("/v1/models", "/v1/models"),
        ("/v1", "/v1"),
        ("/v1x", "/v1/v1x"),
    ],
)
def test_health_is_below_the_url(url: str, path: str, asked: str) -> None:
    assert REMOTE.ready_path(spec(url, health_path=path)) == asked


@pytest.mark.parametrize(
    ("status", "readiness"),
    [
        (200, Readiness.READY),
        (401, Readiness.BROKEN),
        (403, Readiness.BROKEN),
        (301, Readiness.LOADING),
        (404, Readiness.LOADING),
        (429, Readiness.LOADING),
        (503, Readiness.LOADING),
    ],
)
def test_only_a_refused_key_does_not_pass_by_itself(status: int, readiness: Readiness) -> None:
    assert REMOTE.readiness(spec(), HttpAnswer(status, b"")) is readiness


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        (b'{"data":[{"id":"m","max_model_len":8192}]}', Identity(model="m", context_length=8192)),
        (b'{"data":[{"id":"m"}]}', Identity(model="m")),
        (b'{"data":[{"id":"m"},{"id":"n"}]}', Identity()),
        (b"{}", Identity()),
    ],
)
def test_it_is_what_v1_models_lists_if_that_is_one(body: bytes, identity: Identity) -> None:
    assert REMOTE.identity({"/v1/models": HttpAnswer(200, body)}) == identity


def test_nothing_is_started_watched_or_asked_that_costs() -> None:
    assert not REMOTE.has_process
    assert REMOTE.usage_on_request
    assert (REMOTE.program, REMOTE.asks_help, REMOTE.counters_path, REMOTE.ladder) == ("", False, "", ())
    assert REMOTE.signatures(spec()) == ()
    assert REMOTE.counters(HttpAnswer(200, b"requests_total 5\n")) is None
    assert REMOTE.count("/v1/chat/completions", {}, "m") is None
    assert REMOTE.context_hint(()) is None
    with pytest.raises(NotImplementedError, match="cloud"):
        REMOTE.launch(spec(), Footprint(), 1, (), frozenset())


@pytest.mark.parametrize(("prompt", "fits"), [(511, True), (512, False)])
def test_only_a_prompt_without_room_for_an_answer_does_not_fit(prompt: int, fits: bool) -> None:
    assert REMOTE.fits(prompt, 4096, 512) is fits


def test_a_backend_without_a_url_is_a_bug_that_names_it() -> None:
    with pytest.raises(AssertionError, match="cloud"):
        REMOTE.address(replace(spec(), remote=None), 0)
