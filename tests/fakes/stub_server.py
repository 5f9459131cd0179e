"""The stub's server: what is asked, in which order, and what goes wrong. What it says is its dialect's."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path

import msgspec

from tests.fakes import stub_answers as answers
from tests.fakes.stub_door import Door
from tests.fakes.stub_engine import Engine
from tests.fakes.stub_generation import Generation, spinner
from tests.fakes.stub_llama import LlamaDialect
from tests.fakes.stub_loading import Loading, say
from tests.fakes.stub_options import Faults, Serving
from tests.fakes.stub_vllm import DEAD, VllmDialect

INFERENCE = {b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/chat/completions", b"/completions"} | {
    b"/v1/messages",
    b"/v1/responses",
}
LAST_BREATH_S = 0.5  # between the death of its engine and the end of the leader; 2.6 to 3.8 s were seen of vLLM


class Stub:
    def __init__(
        self, serving: Serving, faults: Faults, once: str, engine: Engine | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.serving = serving
        self.faults = faults
        self.loop = loop
        vllm = serving.runtime == "vllm"
        self.dialect: LlamaDialect | VllmDialect = VllmDialect(serving) if vllm else LlamaDialect(serving)
        self.n_ctx = (serving.ctx if vllm else serving.ctx // serving.slots) or 4096
        self.ready = False
        self.exit_status: asyncio.Future[int] = loop.create_future()
        self._engine = engine
        self._loading = Loading(serving, faults, engine, self.strike)
        self._dead = False
        self._once = once
        self._requests = 0
        self._struck = 0
        self._hung = False
        self._spinner: subprocess.Popen[bytes] | None = None
        self._open: set[Generation] = set()
        self._running: set[Generation] = set()
        still = replace(serving, host="", port=0, model="", alias="", ctx=0, slots=1, tokens=0, load_seconds=0.0)
        # A slot is never taken for longer than the answer takes to write.
        self._instant = faults == Faults() and still == replace(Serving(), host="", port=0, model="", tokens=0)
        self._known: dict[tuple[bytes, str | None, int, int | None], tuple[int, bytes, bytes]] = {}
        self._waiting: deque[Generation] = deque()
        self._peaks: dict[str, int] = {}
        self._ticking = False
        self.prompt_total = self.predicted_total = self.decode_total = self.preempted_total = 0
        self._log = os.open(serving.request_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if serving.request_log else -1

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def tokens_in_flight(self) -> int:
        """Of all requests received and not yet answered: prompt and longest answer."""
        return sum(generation.longest for generation in self._open)

    # --- requests ---------------------------------------------------------------------------------------------------

    def handle(self, door: Door, method: bytes, path: bytes, body: bytes) -> None:
        if self.ready and path.decode("latin-1") in self.faults.lacks.split(","):
            door.write_and_close(self.dialect.error(404, "File Not Found"))
        elif path in INFERENCE and method == b"POST" and self.ready:
            self._infer(door, path, body)
        elif not self.ready:
            door.write(answers.error_answer(503, "Loading model"))
        else:
            self._tell(door, path, body)

    def _tell(self, door: Door, path: bytes, body: bytes) -> None:
        if (path == b"/health" and self.faults.hang_health) or (path in {b"/slots", b"/metrics"} and self._hung):
            return
        if self._dead and path == b"/health":
            door.write(self.dialect.error(503, DEAD))
            return
        told = self.dialect.tell(path, body, self)
        if told is None:
            door.write_and_close(self.dialect.error(404, "File Not Found"))
        else:
            door.write(told)

    def _infer(self, door: Door, path: bytes, body: bytes) -> None:
        self._requests += 1
        try:
            ask = answers.decode(body)
        except msgspec.DecodeError as error:
            door.write_and_close(self.dialect.error(400, f"parse error: {error}"))
            return
        prompt = answers.prompt_tokens(ask.text())
        refused = self.dialect.error(500, DEAD) if self._dead else self.dialect.refusal(ask, prompt, self)
        if refused is not None:
            door.write_and_close(refused)
            return
        if self._instant and not ask.stream and not path.endswith(b"embeddings"):
            self._answer_at_once(door, path, ask, prompt)
            return
        generation = Generation(self, door, path, ask, self._requests)
        self._open.add(generation)
        # Whoever left before this one came is told of in the same turn of the loop, but only after it.
        self.loop.call_soon(self._report_peaks)
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
        if self.serving.preempt_above and self.tokens_in_flight > self.serving.preempt_above:
            self.preempted_total += 1
        generation.start()

    def ended(self, generation: Generation) -> None:
        """Its answer is out, or its client left."""
        self._report_peak(self.serving.max_concurrent_report, 1)  # a short one may end before its turn to be counted
        self._report_peak(self.serving.max_tokens_report, generation.longest)
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

    def _report_peaks(self) -> None:
        self._report_peak(self.serving.max_concurrent_report, len(self._open))
        if self.serving.max_tokens_report:
            self._report_peak(self.serving.max_tokens_report, self.tokens_in_flight)

    def _report_peak(self, report: str, value: int) -> None:
        if report and value > self._peaks.get(report, 0):
            self._peaks[report] = value
            with Path(report).open("a") as lines:
                lines.write(f"{value}\n")

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """A fault happens: from the next start on there are none, where a file remembers it."""
        if self._once:
            Path(self._once).touch()

    def hang(self) -> None:
        """It does nothing more for whoever asked; asked for that, it looks busy."""
        if self.faults.spins and self._spinner is None:
            self._spinner = spinner()

    def _abort(self, *words: str) -> None:
        say(*words)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()

    def _goes_wrong(self, generation: Generation) -> bool:
        faults, number = self.faults, generation.number
        if number == faults.die_before_first_byte:
            self.die()
        if number == faults.abort_with_cuda_oom_on_request:
            self.strike()
            self._abort(*answers.RUN_OOM_LINES)
        if faults.abort_on and faults.abort_on in generation.prompt:
            self._abort("ggml.c:1801: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed")
        if faults.oom_alive_above_ctx and self.serving.ctx > faults.oom_alive_above_ctx:
            say(self.dialect.oom_lines(0)[0])
            generation.outcome = "fault"
            generation.end()
            generation.door.write(answers.error_answer(500, "Internal Server Error"))
            return True
        if faults.hang_on_request and number >= faults.hang_on_request:
            self._hung = True
        if self._hung or faults.half_open:
            self.strike()
            self.hang()
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
        say(*self.dialect.loading_lines())
        server = await self._listen() if self.dialect.listens_early else None
        if not await self._loading.load():
            self.strike()
            say(*self.dialect.oom_lines(self.faults.load_oom_above_ctx))
            return 1
        if self._engine is not None and not self.faults.deaf_leader:
            self.loop.add_reader(self._engine.pidfd, self._engine_died)
        server = server or await self._listen()
        self.ready = True
        self.loop.add_signal_handler(signal.SIGTERM, self._asked_to_stop)
        say(*self.dialect.ready_lines())
        self._misbehave_when_ready()
        status = await self.exit_status
        server.close()
        return status

    async def _listen(self) -> asyncio.Server:
        server = await self.loop.create_server(lambda: Door(self), self.serving.host, self.serving.port, backlog=1024)
        say(f"main: HTTP server is bound to port {server.sockets[0].getsockname()[1]}")
        return server

    def _misbehave_when_ready(self) -> None:
        faults = self.faults
        if faults.fork_worker:
            self.strike()
            command = ["sleep", "3600"]
            worker = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
            say(f"worker pid {worker.pid}")
        if faults.log_flood:
            self.strike()
            threading.Thread(target=flood, args=(faults.log_flood,), daemon=True).start()
        if faults.exit_after_ready >= 0:
            self.loop.call_later(faults.exit_after_ready, self._exit_unasked)

    def _engine_died(self) -> None:
        """The running streams are told, after HTTP 200 and with [DONE], and the exit status is 0: as vLLM does it."""
        assert self._engine is not None
        self.loop.remove_reader(self._engine.pidfd)
        if self.exit_status.done():
            return
        self._dead = True
        for generation in tuple(self._open):
            generation.fail(self.dialect.error(500, DEAD), answers.error_body(500, DEAD))
        self.loop.call_later(LAST_BREATH_S, self._exit_unasked)

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


def flood(size: int) -> None:
    part = b"x" * 65536
    while size > 0:
        size -= os.write(1, part[:size])
    say("flood done")
