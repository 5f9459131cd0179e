"""CPU time of the upstream client alone: whole requests, and chunks of streams, with a receiver that does nothing.

    python benchmarks/relay_cost.py --port 8080 [--requests 100000] [--streams 64] [--tokens 500]

Against the stub backend (`python -m tests.fakes.backend --slots 1024`, for streams with --token-rate 100 --aligned).
"""

import argparse
import asyncio
import time
from collections.abc import Sequence

import uvloop

from supervisord.adapters.upstream import HttpUpstream
from supervisord.ports import UpstreamFault, UpstreamRequest
from supervisord.runtimes.base import Address

HEADERS = (("content-type", "application/json"), ("accept", "*/*"), ("x-request-id", "job_01J0000000000000000000000"))


class Counting:
    def __init__(self) -> None:
        self.reads = 0
        self.whole = 0
        self.faults = 0
        self.ended = asyncio.Event()

    def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        pass

    def on_data(self, data: bytes) -> None:  # noqa: ARG002 - a ports.Receiver
        self.reads += 1

    def on_end(self) -> None:
        self.whole += 1
        self.ended.set()

    def on_fault(self, fault: UpstreamFault) -> None:  # noqa: ARG002 - a ports.Receiver
        self.faults += 1
        self.ended.set()


def asking(port: int, *, stream: bool, tokens: int) -> UpstreamRequest:
    body = b'{"messages":[{"role":"user","content":"Say something short."}],"max_tokens":%d%b}'
    body %= (tokens, b',"stream":true' if stream else b"")
    return UpstreamRequest(Address("127.0.0.1", port), "POST", "/v1/chat/completions", HEADERS, body, 300.0)


async def requests_cost(port: int, count: int, at_once: int) -> None:
    upstream = HttpUpstream()
    request = asking(port, stream=False, tokens=8)

    async def one_after_another(receiver: Counting) -> None:
        for _ in range(count // at_once):
            receiver.ended.clear()
            await upstream.start(request, receiver)
            await receiver.ended.wait()

    receivers = [Counting() for _ in range(at_once)]
    began, cpu = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for receiver in receivers:
            group.create_task(one_after_another(receiver))
    used, took = time.process_time() - cpu, time.monotonic() - began
    done = sum(receiver.whole for receiver in receivers)
    faults = sum(receiver.faults for receiver in receivers)
    print(f"requests, {at_once} at once: {used / done * 1e6:.1f} µs CPU each, {done / took:.0f}/s, {faults} faults")
    await upstream.close()


async def streams_cost(port: int, streams: int, tokens: int) -> None:
    upstream = HttpUpstream()
    receivers = [Counting() for _ in range(streams)]
    cpu = time.process_time()
    for receiver in receivers:
        await upstream.start(asking(port, stream=True, tokens=tokens), receiver)
    for receiver in receivers:
        await receiver.ended.wait()
    used = time.process_time() - cpu
    reads = sum(receiver.reads for receiver in receivers)
    sent = streams * tokens
    print(f"streams, {streams} at once: {used / sent * 1e6:.1f} ms CPU for 1000 chunks, {reads} reads of {sent}")
    await upstream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    given = parser.parse_args()
    factory = uvloop.new_event_loop if given.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if given.requests:
            runner.run(requests_cost(given.port, given.requests, given.at_once))
        if given.streams:
            runner.run(streams_cost(given.port, given.streams, given.tokens))


if __name__ == "__main__":
    main()
