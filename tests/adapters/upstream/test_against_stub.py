"""The relay's client and a backend that shows what backends do."""

import json
from pathlib import Path

import pytest

from supervisord.runtimes.base import Address
from tests.fakes.receiver import Remembering, an_upstream, exchange, request_to
from tests.fakes.stub import read_log, stub_backend

PLAIN = b'{"messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"messages":[{"role":"user","content":"hi"}],"stream":true}'
DONE = b"data: [DONE]\n\n"


async def asked(*flags: str, body: bytes = PLAIN) -> Remembering:
    async with stub_backend(*flags) as stub, an_upstream() as upstream:
        return await exchange(upstream, request_to(stub.port, body))


async def test_plain_answer() -> None:
    told = await asked()
    assert (told.status, told.endings) == (200, ["end"])
    assert json.loads(told.body)["usage"]["completion_tokens"] == 8


async def test_stream() -> None:
    told = await asked("--tokens", "20", "--token-rate", "200", body=STREAM)
    assert told.endings == ["end"]
    assert told.body.endswith(DONE)
    assert len(told.parts) >= 15  # each token is handed on as it comes, never gathered by time


async def test_backend_that_closes_after_each_stream_without_saying_so() -> None:
    """As llama-server does: the next request may still find the connection among the kept ones."""

    class AskingAgain(Remembering):
        def on_end(self) -> None:
            super().on_end()
            with pytest.raises(StopIteration):
                upstream.start(request, following).send(None)

    async with stub_backend() as stub, an_upstream() as upstream:
        request = request_to(stub.port, STREAM)
        for _ in range(20):
            following = Remembering()
            await upstream.start(request, AskingAgain())
            assert (await following.over()).endings == ["end"]
            upstream.forget(Address("127.0.0.1", stub.port))
        assert upstream.one_stale.is_set()


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_error_status_is_an_answer(status: int) -> None:
    told = await asked("--status", str(status))
    assert (told.status, told.endings) == (status, ["end"])
    assert json.loads(told.body)["error"]["code"] == status


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        (("--garbage",), ("protocol",)),
        (("--half-head",), ("eof",)),
        (("--wrong-length", "shorter"), ("eof",)),
        (("--wrong-length", "longer"), ("protocol",)),
        (("--reset",), ("reset",)),
        (("--die-before-first-byte", "1"), ("eof", "reset")),
        (("--abort-with-cuda-oom-on-request", "1"), ("eof", "reset")),
        (("--die-mid-stream", "1"), ("eof", "reset")),
    ],
    ids=str,
)
@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["plain", "stream"])
async def test_broken_answer_is_a_fault_and_never_whole(
    flags: tuple[str, ...], kinds: tuple[str, ...], body: bytes
) -> None:
    told = await asked(*flags, body=body)
    assert told.fault.kind in kinds
    assert DONE not in told.body


async def test_half_open_backend_is_idle() -> None:
    async with stub_backend("--half-open") as stub, an_upstream() as upstream:
        told = await exchange(upstream, request_to(stub.port, PLAIN, idle_timeout_s=0.2))
        assert told.fault.kind == "idle"


async def test_odd_bytes_come_verbatim() -> None:
    """Row 10: split code points and bytes that are no UTF-8 are none of the relay's business."""
    token = "é€😀 ".encode()
    told = await asked("--split-utf8", "--tokens", "6", "--token-rate", "100", body=STREAM)
    assert told.endings == ["end"]
    assert told.body.count(token) == 6
    assert any(part.endswith(token[:7]) for part in told.parts)  # it really was split between two reads
    told = await asked("--invalid-utf8", "--tokens", "6", body=STREAM)
    assert told.body.count(b'"\xff\xc3\x28 "') == 6


async def test_abort_cancels_the_generation(tmp_path: Path) -> None:
    log = tmp_path / "requests"
    flags = ("--tokens", "1000", "--token-rate", "100", "--request-log", str(log))
    async with stub_backend(*flags) as stub, an_upstream() as upstream:
        receiver = Remembering()
        running = await upstream.start(request_to(stub.port, STREAM), receiver)
        await receiver.told()
        running.abort()
        await exchange(upstream, request_to(stub.port, b'{"prompt":"next","max_tokens":1}'))
        cancelled, served = read_log(log)
    assert cancelled["cancelled"]
    assert cancelled["tokens"] < 100
    assert not served["cancelled"]
