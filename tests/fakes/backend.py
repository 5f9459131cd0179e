"""A stand-in for `llama-server`: a real process that serves its endpoints and shows the faults it is asked for.

Run as `python -m tests.fakes.backend --port N …`; llama-server's flags that do not matter here are ignored, so that it
can be the `binary` of a llama.cpp backend (see tests/fakes/stub.py). Also the bare upstream of benchmarks.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from time import monotonic

import msgspec
import uvloop

from tests.fakes import stub_answers as answers
from tests.fakes.stub_door import Door
from tests.fakes.stub_generation import Generation
from tests.fakes.stub_options import Faults, Serving, parse

INFERENCE = {b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/chat/completions", b"/completions"}
ASK = msgspec.json.Decoder(answers.Ask)


class Stub:
    """The server: what is asked, in which order, and what goes wrong."""

    def __init__(self, serving: Serving, faults: Faults, once: str, loop: asyncio.AbstractEventLoop) -> None:
        self.serving = serving
        self.faults = faults
        self.loop = loop
        self.alias = answers.alias_of(serving.model, serving.alias)
        self.n_ctx = serving.ctx // serving.slots or 4096
        self.ready = False
        self.exit_status: asyncio.Future[int] = loop.create_future()
        self._once = once
        self._requests = 0
        self._struck = 0
        self._hung = False
        self._open: set[Generation] = set()
        self._running: set[Generation] = set()
        still = replace(serving, host="", port=0, model="", alias="", ctx=0, slots=1, tokens=0, load_seconds=0.0)
        # A slot is never taken for longer than the answer takes to write.
        self._instant = faults == Faults() and still == replace(Serving(), host="", port=0, model="", tokens=0)
        self._known: dict[tuple[bytes, str | None, int, int | None], tuple[int, bytes, bytes]] = {}
        self._waiting: deque[Generation] = deque()
        self._peak = 0
        self._ticking = False
        self.prompt_total = self.predicted_total = self.decode_total = 0
        self._log = os.open(serving.request_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if serving.request_log else -1

    # --- requests ---------------------------------------------------------------------------------------------------

    def handle(self, door: Door, method: bytes, path: bytes, body: bytes) -> None:
        if path in INFERENCE and method == b"POST" and self.ready:
            self._infer(door, path, body)
        elif not self.ready:
            door.write(answers.error_answer(503, "Loading model"))
        else:
            self._tell(door, path, body)

    def _tell(self, door: Door, path: bytes, body: bytes) -> None:
        if (path == b"/health" and self.faults.hang_health) or (path in {b"/slots", b"/metrics"} and self._hung):
            return
        if path == b"/health":
            door.write(answers.json_answer(b'{"status":"ok"}'))
        elif path == b"/metrics":
            door.write(self._metrics())
        elif path == b"/slots":
            slots = [{"id": n, "n_ctx": self.n_ctx, "speculative": False} for n in range(self.serving.slots)]
            told = [{**slot, "is_processing": slot["id"] < len(self._running)} for slot in slots]
            door.write(answers.json_answer(json.dumps(told).encode()))
        elif path == b"/props":
            door.write(
                answers.json_answer(answers.props(self.serving.model, self.alias, self.n_ctx, self.serving.slots))
            )
        elif path in {b"/v1/models", b"/models"}:
            door.write(answers.json_answer(answers.models(self.serving.model, self.alias, self.n_ctx)))
        elif path == b"/tokenize":
            tokens = list(range(answers.prompt_tokens(ASK.decode(body).text())))
            door.write(answers.json_answer(json.dumps({"tokens": tokens}).encode()))
        else:
            door.write_and_close(answers.error_answer(404, "File Not Found"))

    def _metrics(self) -> bytes:
        values = {
            "prompt_tokens_total": ("counter", self.prompt_total),
            "tokens_predicted_total": ("counter", self.predicted_total),
            "n_decode_total": ("counter", self.decode_total),
            "requests_processing": ("gauge", len(self._running)),
            "requests_deferred": ("gauge", len(self._waiting)),
        }
        text = "".join(
            f"# HELP llamacpp:{name} of the stub\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
            for name, (kind, value) in values.items()
        ).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %d\r\n\r\n"
        return head % len(text) + text

    def _infer(self, door: Door, path: bytes, body: bytes) -> None:
        self._requests += 1
        try:
            ask = ASK.decode(body)
        except msgspec.DecodeError as error:
            door.write_and_close(answers.error_answer(400, f"parse error: {error}"))
            return
        prompt = answers.prompt_tokens(ask.text())
        if prompt > self.n_ctx:
            message = f"request ({prompt} tokens) exceeds the available context size ({self.n_ctx} tokens)"
            more = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": self.n_ctx}
            door.write_and_close(answers.error_answer(400, message, **more))
            return
        if self._instant and not ask.stream and not path.endswith(b"embeddings"):
            self._answer_at_once(door, path, ask, prompt)
            return
        generation = Generation(self, door, path, ask, self._requests)
        self._open.add(generation)
        if len(self._open) > self._peak:
            self._peak = len(self._open)
            self._report_peak()
        if self._goes_wrong(generation):
            return
        if len(self._running) < self.serving.slots:
            self._run(generation)
        else:
            self._waiting.append(generation)

    def _answer_at_once(self, door: Door, path: bytes, ask: answers.Ask, prompt: int) -> None:
        """The way of benchmarks: nothing to wait for, nothing to go wrong, an answer known but for its id."""
        key = path, ask.model, prompt, ask.max_tokens
        known = self._known.get(key)
        if known is None:
            self._known[key] = known = Generation(self, door, path, ask, 0).instant_answer()
            door.work = None
        tokens, before, after = known
        self.prompt_total += prompt
        self.predicted_total += tokens
        self.decode_total += tokens
        door.write(b"%b%032d%b" % (before, self._requests, after))

    def _run(self, generation: Generation) -> None:
        self._running.add(generation)
        generation.start()

    def ended(self, generation: Generation) -> None:
        """Its answer is out, or its client left."""
        self._open.discard(generation)
        if generation in self._running:
            self._running.discard(generation)
        else:
            with contextlib.suppress(ValueError):
                self._waiting.remove(generation)
        if self._log >= 0:
            os.write(self._log, json.dumps(generation.record()).encode() + b"\n")
        while self._waiting and len(self._running) < self.serving.slots and not self._hung:
            self._run(self._waiting.popleft())

    def _report_peak(self) -> None:
        if self.serving.max_concurrent_report:
            with Path(self.serving.max_concurrent_report).open("a") as report:
                report.write(f"{self._peak}\n")

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """A fault happens: from the next start on there are none, where a file remembers it."""
        if self._once:
            Path(self._once).touch()

    def _goes_wrong(self, generation: Generation) -> bool:
        faults, number = self.faults, generation.number
        if number == faults.die_before_first_byte:
            self.die()
        if number == faults.abort_with_cuda_oom_on_request:
            self.strike()
            say(*answers.RUN_OOM_LINES)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        if faults.hang_on_request and number >= faults.hang_on_request:
            self._hung = True
        if self._hung or faults.half_open:
            self.strike()
            return True
        return self._answers_wrong(generation)

    def _answers_wrong(self, generation: Generation) -> bool:
        faults, door = self.faults, generation.door
        if faults.times and self._struck >= faults.times:
            return False
        wrong = generation.wrong_answer(faults)
        if wrong is None and not faults.reset:
            return False
        self._struck += 1
        self.strike()
        generation.outcome = "fault"
        generation.end()
        if faults.reset:
            door.reset()
        elif wrong is not None:
            stays = faults.error_event_then_done or faults.wrong_length == "longer"
            (door.write if stays else door.write_and_close)(wrong)
        return True

    def die(self) -> None:
        self.strike()
        os.kill(os.getpid(), signal.SIGKILL)

    # --- life -------------------------------------------------------------------------------------------------------

    async def live(self) -> int:
        """Load, serve, and return the exit status."""
        serving, faults = self.serving, self.faults
        server = await self.loop.create_server(lambda: Door(self), serving.host, serving.port, backlog=1024)
        say(f"main: HTTP server is bound to port {server.sockets[0].getsockname()[1]}", *answers.LOADING_LINES)
        if await self._load() is False:
            self.strike()
            say(*answers.LOAD_OOM_LINES)
            return 1
        self.ready = True
        self.loop.add_signal_handler(signal.SIGTERM, self._asked_to_stop)
        say(*(line.format(host=serving.host, port=serving.port) for line in answers.READY_LINES))
        if faults.fork_worker:
            self.strike()
            command = ["sleep", "3600"]
            worker = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - quick
            say(f"worker pid {worker.pid}")
        if faults.log_flood:
            self.strike()
            threading.Thread(target=flood, args=(faults.log_flood,), daemon=True).start()
        if faults.exit_after_ready >= 0:
            self.loop.call_later(faults.exit_after_ready, self._exit_unasked)
        status = await self.exit_status
        server.close()
        return status

    async def _load(self) -> bool:
        """Whether the model could be loaded."""
        began = monotonic()
        every = self.serving.load_log_every
        while self.faults.load_stall or monotonic() - began < self.serving.load_seconds:
            if self.faults.load_stall:
                self.strike()
            left = 3600.0 if self.faults.load_stall else began + self.serving.load_seconds - monotonic()
            await asyncio.sleep(min(every or left, max(left, 0)))
            if every:
                say(f"load_tensors: {monotonic() - began:.2f} s")
        above = self.faults.load_oom_above_ctx
        return not (self.faults.load_exit_oom or (above and self.serving.ctx > above))

    def _asked_to_stop(self) -> None:
        if not self.faults.ignore_term and not self.exit_status.done():
            self.exit_status.set_result(0)

    def _exit_unasked(self) -> None:
        self.strike()
        if not self.exit_status.done():
            self.exit_status.set_result(self.faults.exit_status)

    # --- ticks shared by all streams --------------------------------------------------------------------------------

    def join_ticks(self) -> None:
        if not self._ticking:
            self._ticking = True
            self.loop.call_later(
                1 / self.serving.token_rate, self._tick, self.loop.time() + 1 / self.serving.token_rate
            )

    def _tick(self, due: float) -> None:
        for generation in tuple(self._running):
            generation.tick()
        self._ticking = bool(self._running)
        if self._ticking:
            following = due + 1 / self.serving.token_rate
            self.loop.call_at(following, self._tick, following)


def say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - a server's log


def flood(size: int) -> None:
    part = b"x" * 65536
    while size > 0:
        size -= os.write(1, part[:size])
    say("flood done")


def main() -> int:
    serving, faults, once = parse(sys.argv[1:])
    if faults.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stub = Stub(serving, faults, once, runner.get_loop())
        status = runner.run(stub.live())
        os._exit(status)  # at once, as llama-server does: whatever streams is cut


if __name__ == "__main__":
    main()
