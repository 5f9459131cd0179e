"""The smallest request of each runtime, and what is asked of it before it is killed."""

import json
from dataclasses import replace

import pytest

from supervisord.runtimes.base import BackendSpec, Call, RuntimeKind
from supervisord.runtimes.registry import RUNTIMES

LOCAL = (RuntimeKind.LLAMA_CPP, RuntimeKind.VLLM, RuntimeKind.COMMAND)


def spec(kind: RuntimeKind) -> BackendSpec:
    return BackendSpec("a", kind, "/models/a.gguf", ("a",))


@pytest.mark.parametrize("kind", LOCAL)
def test_a_canary_asks_for_one_token(kind: RuntimeKind) -> None:
    call = RUNTIMES[kind].canary(replace(spec(kind), canary_token=True), "its-name")
    assert call is not None
    assert call.path == "/v1/completions"
    asked = json.loads(call.body)
    assert (asked["model"], asked["max_tokens"], asked.get("stream", False)) == ("its-name", 1, False)


@pytest.mark.parametrize("kind", LOCAL)
def test_a_server_of_embeddings_alone_has_no_tokens_to_give(kind: RuntimeKind) -> None:
    call = RUNTIMES[kind].canary(replace(spec(kind), embeddings=True, canary_token=True), "a")
    assert call == (Call("/metrics", b"") if kind is RuntimeKind.LLAMA_CPP else None)


@pytest.mark.parametrize(
    ("kind", "token", "path"),
    [
        (RuntimeKind.LLAMA_CPP, None, "/metrics"),
        (RuntimeKind.LLAMA_CPP, False, "/metrics"),
        (RuntimeKind.VLLM, None, "/v1/completions"),
        (RuntimeKind.VLLM, False, None),
        (RuntimeKind.COMMAND, None, "/v1/completions"),
        (RuntimeKind.COMMAND, False, None),
    ],
)
def test_who_is_asked_for_a_token_unasked(kind: RuntimeKind, token: bool | None, path: str | None) -> None:
    """On llama.cpp it costs a prompt that is cached; vLLM's counters say nothing of its engine."""
    call = RUNTIMES[kind].canary(replace(spec(kind), canary_token=token), "a")
    assert (call and call.path) == path


def test_a_token_of_somebody_else_costs_money() -> None:
    assert RUNTIMES[RuntimeKind.REMOTE].canary(spec(RuntimeKind.REMOTE), "a") is None


def test_what_is_asked_before_a_kill_goes_through_the_queue_of_the_engine() -> None:
    """/health is answered by another thread than the one that hangs."""
    paths = {kind: runtime.diagnosis_path for kind, runtime in RUNTIMES.items()}
    assert paths == {
        RuntimeKind.LLAMA_CPP: "/slots", RuntimeKind.VLLM: "/metrics", RuntimeKind.COMMAND: "", RuntimeKind.REMOTE: "",
    }  # fmt: skip
