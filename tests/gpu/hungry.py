"""A small server that takes memory of a GPU with PyTorch: for a `command` backend, or as a process of somebody else.

    hungry.py --hold BYTES                 takes them, says so, and keeps them until its standard input ends
    hungry.py --hold BYTES --port PORT     takes them, and serves /health, /v1/models and /v1/chat/completions

A chat whose last message is EAT_ALL makes it allocate until PyTorch's own OutOfMemoryError ends it, with its traceback
and status 1. It needs PyTorch and the standard library only. Where FAKE_NVML_CLAIMS is set, it takes memory of the
stand-in GPU instead, and the error is a stand-in with PyTorch's words.
"""

import argparse
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

EAT_ALL = "Take all the memory there is."
MODEL = "hungry"
BITES = 64  # a card is eaten up in so many allocations
STAND_IN_BITE = 2**28
WORDS = "CUDA out of memory. Tried to allocate {:.2f} GiB."  # apart from where it is raised: a traceback quotes that


class Memory(Protocol):
    """Of the first GPU that CUDA_VISIBLE_DEVICES names."""

    bite: int  # bytes of one of many allocations

    def take(self, size: int) -> None:
        """Hold `size` bytes more. Raises OutOfMemoryError: PyTorch's, or the stand-in."""
        ...


class CudaMemory:
    def __init__(self) -> None:
        import torch  # noqa: PLC0415 - only where there is a real GPU

        self._torch = torch
        self._held: list[Any] = []
        self.bite = torch.cuda.mem_get_info(0)[1] // BITES

    def take(self, size: int) -> None:
        self._held.append(self._torch.empty(size, dtype=self._torch.uint8, device="cuda:0"))
        self._torch.cuda.synchronize()


class OutOfMemoryError(RuntimeError):
    """In PyTorch's words."""


class ClaimedMemory:
    bite = STAND_IN_BITE

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from tests.fakes.nvml.claims import Claims  # noqa: PLC0415 - PyTorch's environment has no use for it

        claims = Claims.of_environment()
        assert claims is not None
        self._claims = claims
        self._gpu = claims.index(os.environ["CUDA_VISIBLE_DEVICES"])
        self._held = 0

    def take(self, size: int) -> None:
        if not self._claims.claim(self._gpu, self._held + size):
            raise OutOfMemoryError(WORDS.format(size / 2**30))
        self._held += size


class Kitchen:
    """Work for the main thread: what goes wrong there ends the process, as it does in an engine."""

    def __init__(self) -> None:
        self.ready = False
        self._orders: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()

    def order(self, work: Callable[[], None]) -> None:
        """Have `work` done, and wait for it; never returns when it fails."""
        done = threading.Event()
        self._orders.put((work, done))
        done.wait()

    def serve(self) -> None:
        self.ready = True
        while True:
            work, done = self._orders.get()
            work()
            done.set()


def eat_all(memory: Memory) -> None:
    """Allocate until it fails."""
    while True:
        memory.take(memory.bite)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kitchen: Kitchen
    memory: Memory

    def do_GET(self) -> None:
        if not self.kitchen.ready:
            self._answer(503, {"status": "loading"})
        elif self.path == "/health":
            self._answer(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._answer(404, {"error": {"message": "there is no such path", "type": "invalid_request_error"}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.kitchen.ready or self.path != "/v1/chat/completions":
            self._answer(503, {"error": {"message": "loading, or no such path", "type": "server_error"}})
            return
        if asked["messages"][-1]["content"] == EAT_ALL:
            self.kitchen.order(partial(eat_all, self.memory))
        message = {"role": "assistant", "content": "I have had enough."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        self._answer(200, {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class gives it
        """Silence: what is printed has to be read by the one who looks for the cause."""


class Server(ThreadingHTTPServer):
    daemon_threads = True


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its log


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hold", type=int, required=True)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    kitchen = Handler.kitchen = Kitchen()
    if options.port is not None:  # at once: it answers 503 while it loads
        server = Server(("127.0.0.1", options.port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    say("loading")
    memory: Memory = ClaimedMemory() if os.environ.get("FAKE_NVML_CLAIMS") else CudaMemory()
    Handler.memory = memory
    memory.take(options.hold)
    say(f"holds {options.hold} bytes")
    if options.port is None:
        sys.stdin.read()
    else:
        kitchen.serve()


if __name__ == "__main__":
    main()
