"""An OpenAI-compatible address that is not ours to start: a service, or the door of another workstation."""

from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import urlsplit

from supervisord.core.exits import Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.record import Identity
from supervisord.runtimes import model_list
from supervisord.runtimes.base import (
    Address,
    BackendSpec,
    Call,
    Counters,
    Counting,
    HttpAnswer,
    Readiness,
    RemoteOptions,
    RuntimeKind,
)

_PORTS = {"http": 80, "https": 443}
_API = "/v1"


class Remote:
    """`runtimes.base.Runtime` without a process. Its health is a cheap call, its faults open a breaker."""

    kind = RuntimeKind.REMOTE
    has_process = False
    usage_on_request = True  # as OpenAI does it, and everybody who is compatible with OpenAI
    program = ""
    asks_help = False
    counters_path = ""
    diagnosis_path = ""
    identity_paths: tuple[str, ...] = (model_list.PATH,)
    ladder: tuple[Rung, ...] = ()

    def launch(
        self, spec: BackendSpec, footprint: Footprint, port: int, program: tuple[str, ...], offered: frozenset[str]
    ) -> NoReturn:
        """Nothing is started here; raises NotImplementedError."""
        del footprint, port, program, offered
        raise NotImplementedError(f"backend {spec.name} is remote: there is nothing to start")

    def signatures(self, spec: BackendSpec) -> tuple[Signature, ...]:
        """None: it has no log."""
        del spec
        return ()

    def address(self, spec: BackendSpec, port: int) -> Address:
        """The address in `base_url`, with the key. `port` plays no part."""
        del port
        options = _options(spec)
        return base_address(options.base_url, options.key)

    def ready_path(self, spec: BackendSpec) -> str:
        """The configured path, below `base_url`: `/models` of `https://host/v1` is asked for as `/v1/models`."""
        path = _options(spec).health_path
        return path if _is_below_api(path) else _API + path

    def readiness(self, spec: BackendSpec, answer: HttpAnswer) -> Readiness:
        """200 is ready; 401 and 403 refuse the key, which waiting does not mend; anything else may pass."""
        del spec
        match answer.status:
            case 200:
                return Readiness.READY
            case 401 | 403:
                return Readiness.BROKEN
            case _:
                return Readiness.LOADING

    def counters(self, answer: HttpAnswer) -> Counters | None:
        """None: its load is its own."""
        del answer
        return None

    def canary(self, spec: BackendSpec, model: str) -> Call | None:
        """None: a token costs money."""
        del spec, model
        return None

    def identity(self, answers: Mapping[str, HttpAnswer]) -> Identity:
        """The model of `/v1/models`, where it lists just one; of many, the list does not tell which is ours."""
        models = model_list.listed(answers.get(model_list.PATH))
        return Identity(model=models[0].name, context_length=models[0].context) if len(models) == 1 else Identity()

    def count(self, endpoint: str, members: Mapping[str, bytes], model: str) -> Counting | None:
        """None: nothing is asked of it that may cost money."""
        del endpoint, members, model
        return None

    def fits(self, prompt_tokens: int, max_tokens: int | None, context: int) -> bool:
        """Only a prompt that leaves no room for an answer is refused."""
        del max_tokens
        return prompt_tokens < context

    def refused(self, log: tuple[str, ...]) -> Shrink | None:
        """None: it has no such words."""
        del log
        return None

    def context_hint(self, log: tuple[str, ...]) -> int | None:
        """None: it has no log."""
        del log
        return None


def base_address(base_url: str, key: str = "") -> Address:
    """Where the endpoints of an OpenAI-compatible service are, from the URL that its users write.

    Our endpoints begin with `/v1`. A `/v1` that ends `base_url` is the same one, so it is taken off; where it is
    missing it is what follows: `https://host/api/v1` and `https://host/api` both lead to `/api/v1/chat/completions`.

    Raises ValueError, without a word of `key` or of what the URL may hold of secrets, for what is no such URL.
    """
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL; write it as https://host/v1") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("is not an address of HTTP; write it as https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or a password; put the key into `key`")
    if parts.query or parts.fragment:
        raise ValueError("ends in ?… or #…, which would cut it off from the endpoints; write it as https://host/v1")
    if port == 0:
        raise ValueError("has port 0; write the port that the service listens on, or none")
    return Address(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "https",
        prefix=parts.path.rstrip("/").removesuffix(_API).rstrip("/"),
        headers=(("authorization", f"Bearer {_token(key)}"),) if _token(key) else (),
    )


def _token(key: str) -> str:
    """A key as a header can carry it. One that was read from a file often ends in a line break, which is none of it."""
    token = key.strip()
    if not token.isascii() or not token.isprintable():
        raise ValueError("needs a key of plain ASCII letters on one line; look at where `key` comes from")
    return token


def _is_below_api(path: str) -> bool:
    return path == _API or path.startswith(f"{_API}/")


def _options(spec: BackendSpec) -> RemoteOptions:
    assert spec.remote is not None, f"backend {spec.name} has the runtime remote and no url"
    return spec.remote
