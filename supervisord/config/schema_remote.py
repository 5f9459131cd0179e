"""The settings of a backend that somebody else runs."""

from typing import Annotated

from supervisord.config import fields
from supervisord.config.fields_network import HttpPath, Key, Url
from supervisord.config.schema_backend import BackendSettings, Slots
from supervisord.config.settings import Missing, Settings, required, section, setting
from supervisord.runtimes.base import RuntimeKind


class RemoteHealth(Settings):
    path: HttpPath = setting(
        "/models", "Path below url that is asked whether the server answers; it should cost nothing."
    )


class Breaker(Settings):
    failures: Annotated[int, *fields.whole(1, 100)] = setting(
        3, "Failed requests in a row after which no more are sent for a while."
    )


class RemoteSettings(BackendSettings):
    RUNTIME = RuntimeKind.REMOTE

    runtime: Annotated[str, *fields.one_of(RUNTIME, noun="this runtime")] = required(
        "Kind of server: llama.cpp, vllm, command or remote."
    )
    url: Annotated[
        Url, Missing("missing; give the base URL, such as https://api.example.com/v1", "https://missing.invalid")
    ] = required("Base URL of an OpenAI-compatible server, as its clients write it: https://HOST/v1.")
    key: Key | None = setting(None, "Key that is sent as a bearer token. From the environment only: ${env:NAME}.")
    slots: Slots = setting(16, "Requests in flight at the same time.")
    health: RemoteHealth = section(RemoteHealth, "How to tell that it answers.")
    breaker: Breaker = section(Breaker, "When to leave it alone.")
