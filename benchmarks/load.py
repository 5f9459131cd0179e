"""Load for one server, and what it measures: a closed loop of requests, or many paced streams.

    python benchmarks/load.py closed  --port 8080 --connections 32 --seconds 5 [--pid PID]
    python benchmarks/load.py streams --port 8080 --streams 64 --seconds 5 [--pid PID]

Streams need a backend that stamps its tokens: `python -m tests.fakes.backend --stamp --token-rate 100 --slots 1024
--tokens 1000000 [--aligned]`. Delay is from that stamp to the read here; both clocks are the machine's CLOCK_MONOTONIC.
"""

import argparse
import asyncio
import json
import re
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, monotonic_ns, perf_counter_ns
from typing import Any, cast

import uvloop

PATH = "/v1/chat/completions"
WAIT_S = 30.0  # for the slowest peers to send the last answers
STAMP = re.compile(rb"@(\d{10,20}) ")
ENDS = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`p50_us`, `p99_us`: from the write of a request to the last byte of its answer. `cpu_us`: of `pid`, a request."""

    connections: int
    requests: int
    errors: int
    seconds: float
    requests_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float | None = None


@dataclass(frozen=True, slots=True)
class Streams:
    """Delays of events behind their stamp. `cpu_ms`: of `pid`, for each 1000 events."""

    streams: int
    events: int
    errors: int
    seconds: float
    p50_us: float
    p99_us: float
    first_byte_p50_us: float
    first_byte_p99_us: float
    cpu_ms: float | None = None


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond; of threads that ended meanwhile it knows nothing."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def percentile(values: Sequence[int], share: float) -> float:
    """In microseconds, of nanoseconds; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3 if ordered else 0.0


def request_bytes(host: str, port: int, model: str, *, stream: bool, max_tokens: int | None = None) -> bytes:
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Say something short."}]}
    asked |= {"stream": True} if stream else {}
    asked |= {"max_tokens": max_tokens} if max_tokens else {}
    body = json.dumps(asked).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Looping(asyncio.Protocol):
    """Sends the next request as soon as an answer is whole."""

    def __init__(self, request: bytes, until: float) -> None:
        self._request = request
        self._until = until
        self._answer = b""
        self._sent_at = 0
        self._transport: asyncio.Transport
        self.latencies: list[int] = []
        self.errors = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._sent_at = perf_counter_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer = answer = self._answer + data if self._answer else data
        if not is_whole(answer):
            return
        self.latencies.append(perf_counter_ns() - self._sent_at)
        self.errors += not answer.startswith(b"HTTP/1.1 200")
        self._answer = b""
        if monotonic() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.errors += monotonic() < self._until
        if not self.over.done():
            self.over.set_result(None)


def is_whole(answer: bytes) -> bool:
    """Whether a small answer, by length or chunked, has come to its end."""
    head_end = answer.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    at = answer.find(b"ontent-Length: ", 0, head_end)
    if at < 0:
        at = answer.find(b"ontent-length: ", 0, head_end)
    if at < 0:
        return answer.endswith(ENDS)
    return len(answer) - head_end - 4 >= int(answer[at + 15 : answer.index(b"\r", at)])


class Streaming(asyncio.Protocol):
    """One stream: delays of its stamped events, and the time to its first byte."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self._sent_at = 0
        self._transport: asyncio.Transport
        self.first_byte: int | None = None
        self.delays: list[int] = []
        self.error = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        self._sent_at = monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if self.first_byte is None:
            self.first_byte = now - self._sent_at
            self.error = not data.startswith(b"HTTP/1.1 200")
        text = self._rest + data
        end = 0
        for found in STAMP.finditer(text):
            self.delays.append(now - int(found[1]))
            end = found.end()
        self._rest = text[max(end, len(text) - 24) :]  # a stamp may be cut in two
        if b"[DONE]" in text or self.error:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self.over.done():
            self.over.set_result(None)


async def closed_loop(
    host: str, port: int, *, connections: int, seconds: float, model: str = "stub.gguf", pid: int | None = None
) -> ClosedLoop:
    """As many requests as `connections` can, one at a time each, on kept connections."""
    loop = asyncio.get_running_loop()
    request = request_bytes(host, port, model, stream=False)
    cpu = cpu_seconds(pid) if pid else 0.0
    began = monotonic()
    clients: list[Looping] = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Looping(request, began + seconds), host, port)
        clients.append(client)
    await asyncio.wait([client.over for client in clients], timeout=seconds + WAIT_S)
    elapsed = monotonic() - began
    latencies = [latency for client in clients for latency in client.latencies]
    count = len(latencies)
    return ClosedLoop(
        connections=connections,
        requests=count,
        errors=sum(client.errors for client in clients) + sum(not client.over.done() for client in clients),
        seconds=round(elapsed, 3),
        requests_per_s=round(count / elapsed, 1),
        p50_us=percentile(latencies, 0.5),
        p99_us=percentile(latencies, 0.99),
        cpu_us=round((cpu_seconds(pid) - cpu) * 1e6 / max(count, 1), 2) if pid else None,
    )


async def paced_streams(
    host: str, port: int, *, streams: int, tokens: int, model: str = "stub.gguf", pid: int | None = None
) -> Streams:
    """`streams` at once, connected beforehand, each of `tokens` events."""
    loop = asyncio.get_running_loop()
    request = request_bytes(host, port, model, stream=True, max_tokens=tokens)
    clients = [(await loop.create_connection(lambda: Streaming(request), host, port))[1] for _ in range(streams)]
    cpu = cpu_seconds(pid) if pid else 0.0
    began = monotonic()
    for client in clients:
        client.begin()
    await asyncio.wait([client.over for client in clients], timeout=WAIT_S + tokens)
    elapsed = monotonic() - began
    delays = [delay for client in clients for delay in client.delays]
    firsts = [client.first_byte for client in clients if client.first_byte is not None]
    return Streams(
        streams=streams,
        events=len(delays),
        errors=sum(client.error or len(client.delays) != tokens for client in clients),
        seconds=round(elapsed, 3),
        p50_us=percentile(delays, 0.5),
        p99_us=percentile(delays, 0.99),
        first_byte_p50_us=percentile(firsts, 0.5),
        first_byte_p99_us=percentile(firsts, 0.99),
        cpu_ms=round((cpu_seconds(pid) - cpu) * 1e6 / max(len(delays), 1), 2) if pid else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["closed", "streams"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="stub.gguf")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rate", type=float, default=100.0, help="tokens per second of the backend's streams")
    parser.add_argument("--pid", type=int, help="whose CPU time to measure")
    given = parser.parse_args()
    measured: Coroutine[Any, Any, ClosedLoop | Streams]
    if given.mode == "closed":
        measured = closed_loop(
            given.host,
            given.port,
            connections=given.connections,
            seconds=given.seconds,
            model=given.model,
            pid=given.pid,
        )
    else:
        tokens = int(given.seconds * given.rate)
        measured = paced_streams(
            given.host, given.port, streams=given.streams, tokens=tokens, model=given.model, pid=given.pid
        )
    print(json.dumps(asdict(uvloop.run(measured))))


if __name__ == "__main__":
    main()
