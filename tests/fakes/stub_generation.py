"""One inference request at the stub: its tokens, their pace, and how its client sees it end."""

import asyncio
import os
import subprocess
from time import monotonic, monotonic_ns
from typing import Protocol

from tests.fakes import stub_answers as answers
from tests.fakes.stub_door import Door
from tests.fakes.stub_events import MessagesWording, ResponsesWording
from tests.fakes.stub_llama import LlamaDialect
from tests.fakes.stub_options import Faults, Serving
from tests.fakes.stub_vllm import VllmDialect

SPIN = ("/bin/sh", "-c", "while :; do :; done")
ODD_TOKEN = "é€😀 ".encode()  # 2, 3 and 4 bytes
NOT_UTF8 = b'"\xff\xc3\x28 "'


def spinner() -> "subprocess.Popen[bytes]":
    """A child that uses a whole processor, where there is one."""
    return subprocess.Popen(SPIN, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Owner(Protocol):
    serving: Serving
    faults: Faults
    loop: asyncio.AbstractEventLoop
    dialect: LlamaDialect | VllmDialect
    prompt_total: int
    predicted_total: int
    decode_total: int

    def ended(self, generation: "Generation") -> None: ...

    def join_ticks(self) -> None: ...

    def strike(self) -> None: ...

    def hang(self) -> None: ...

    def die(self) -> None: ...


class Generation:
    """Runs on timers, without a task: begin, prefill, tokens, end."""

    def __init__(self, owner: Owner, door: Door, path: bytes, ask: answers.Ask, number: int) -> None:
        self.owner = owner
        self.door = door
        self.number = number
        self.outcome = "done"
        self._ask = ask
        self._embeds = path.endswith(b"embeddings")
        self._alias = owner.dialect.alias
        serving = owner.serving
        asked = ask.max_output_tokens or ask.max_tokens or 0
        limit = asked if asked > 0 else serving.tokens
        self._tokens = min(limit, serving.tokens)
        self._reason = b"length" if limit < serving.tokens else b"stop"
        self._counts = answers.Counts(answers.prompt_tokens(ask.text()))
        self.longest = self._counts.prompt + limit  # tokens
        self._words = self._wording(path)
        self._sent = 0
        self._received_at = monotonic()
        self._started_at: float | None = None
        self._first_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pings: asyncio.TimerHandle | None = None
        self._over = False
        self._spinner: subprocess.Popen[bytes] | None = None
        self._carry = b""  # the second half of a code point, until the next write
        door.work = self

    def _wording(self, path: bytes) -> answers.Wording | MessagesWording | ResponsesWording:
        named = self._ask.model or self._alias
        if path == b"/v1/messages":
            return MessagesWording(self.number, named, self._counts.prompt)
        if path == b"/v1/responses":
            return ResponsesWording(self.number, named, self._counts.prompt)
        return self.owner.dialect.wording(self.number, named, chat=path.endswith(b"chat/completions"))

    def start(self) -> None:
        """It has a slot."""
        self._started_at = monotonic()
        if self._ask.stream and not self._embeds:
            self.door.write(answers.STREAM_HEAD)
            self._ping()
        prefill = self.owner.serving.prefill_seconds
        if prefill:
            if self.owner.serving.prefill_spins:
                self._spinner = spinner()
            self._timer = self.owner.loop.call_later(prefill, self._prefilled)
        else:
            self._prefilled()

    def end(self) -> None:
        """Nothing more will be sent."""
        if self._over:
            return
        self._over = True
        for timer in (self._timer, self._pings):
            if timer is not None:
                timer.cancel()
        self._rest()
        if self.door.work is self:
            self.door.work = None
        self.owner.ended(self)

    def fail(self, answer: bytes, error: bytes) -> None:
        """End with an error: in the stream where one has begun, else instead of the answer."""
        self.outcome = "fault"
        self.end()
        if self._ask.stream and self._started_at is not None:
            self._write_chunk(b"data: " + error + b"\n\n" + answers.DONE)
            self.door.write(answers.LAST_CHUNK)
        else:
            self.door.write(answer)

    def left(self) -> None:
        self.outcome = "cancelled"
        self.end()

    def writable(self) -> None:
        if not self.owner.serving.token_rate and self._started_at is not None and not self._over:
            self._pour()

    @property
    def prompt(self) -> str:
        return self._ask.text()

    def record(self) -> dict[str, object]:
        """Its line of the request log. Times are monotonic seconds; `start` is when it got its slot."""
        return {
            "id": self.number,
            "pid": os.getpid(),
            "prompt": self._ask.text()[:80],
            "stream": self._ask.stream,
            "received": self._received_at,
            "start": self._started_at,
            "end": monotonic(),
            "tokens": self._sent,
            "cancelled": self.outcome == "cancelled",
            "outcome": self.outcome,
        }

    # --- pace ---------------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        if self._spinner is not None:
            self._spinner.kill()
            self._spinner.wait()
            self._spinner = None

    def _prefilled(self) -> None:
        self._rest()
        self._counts.prompt_s = monotonic() - (self._started_at or 0.0)
        self.owner.prompt_total += self._counts.prompt
        self._first_due = self.owner.loop.time()
        if self._embeds:
            self._answer_embeddings()
            return
        if self._ask.stream:
            self._chunk(self._words.first())
        if self.owner.serving.aligned:
            self.owner.join_ticks()
        elif self.owner.serving.token_rate:
            self._timer = self.owner.loop.call_later(1 / self.owner.serving.token_rate, self._paced)
        elif self._ask.stream:
            self._pour()
        else:
            self._count(self._tokens)
            self._finish()

    def tick(self) -> None:
        """One token, when the owner gives one to every stream at once."""
        if self._started_at is not None and self._counts.prompt_s and not self._over:
            self._step()

    def _paced(self) -> None:
        if self._step():
            due = self._first_due + (self._sent + 1) / self.owner.serving.token_rate
            self._timer = self.owner.loop.call_at(due, self._paced)

    def _pour(self) -> None:
        """All tokens at once, as fast as the client takes them."""
        while not self.door.full and self._step():
            pass

    def _step(self) -> bool:
        """One token. False when there is none to follow."""
        if self._sent < self._tokens:
            if self._half_way():
                return False
            self._count(1)
            if self._ask.stream:
                self._chunk(self._words.token(self._content(self._sent - 1)))
        if self._sent < self._tokens:
            return True
        if not self._over:
            self._finish()
        return False

    def _count(self, tokens: int) -> None:
        self._sent += tokens
        self.owner.predicted_total += tokens
        self.owner.decode_total += tokens

    def _half_way(self) -> bool:
        """Whether a fault strikes here, after half of the tokens."""
        faults = self.owner.faults
        if self._sent < self._tokens // 2 or not self._ask.stream:
            return False
        if self.number == faults.die_mid_stream:
            # The bytes written in this turn of the loop leave only at its end.
            self._timer = self.owner.loop.call_later(0.02, self.owner.die)
            return True
        if self.number == faults.hang_mid_stream:
            self.owner.strike()
            self.owner.hang()
            return True
        return False

    # --- words --------------------------------------------------------------------------------------------------------

    def _content(self, index: int) -> bytes:
        """The JSON string of a token."""
        serving, faults = self.owner.serving, self.owner.faults
        if faults.split_utf8:
            return b'"' + ODD_TOKEN + b'"'
        if faults.invalid_utf8:
            return NOT_UTF8
        if serving.stamp:
            return b'"@%d "' % monotonic_ns()
        text = b"t%d " % index
        return b'"' + text.ljust(serving.chunk_bytes, b".") + b'"'

    def _chunk(self, data: bytes) -> None:
        if not data:
            return
        if self.owner.faults.split_utf8:
            self.owner.strike()
            data = self._carry + data
            cut = data.find(b"\xf0")
            self._carry = data[cut + 2 :] if cut >= 0 else b""
            data = data[: cut + 2] if cut >= 0 else data
        self._write_chunk(data)

    def _write_chunk(self, data: bytes) -> None:
        self.door.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _ping(self) -> None:
        every = self.owner.serving.ping_every
        if every:
            self._pings = self.owner.loop.call_later(every, self._ping)
            self._write_chunk(b": ping\n\n")

    def _finish(self) -> None:
        """The last bytes leave after its line is in the request log, so that whoever got the answer finds the line."""
        self._counts.predicted = self._sent
        self._counts.predicted_s = self.owner.loop.time() - self._first_due
        if self._ask.stream:
            self._chunk(self._words.last(self._reason, self._counts, include_usage=self._ask.include_usage()))
            if self._carry:
                self._write_chunk(self._carry)
            self.end()
            closes = self.owner.dialect.closes_after_stream
            (self.door.write_and_close if closes else self.door.write)(answers.LAST_CHUNK)
            return
        answer = answers.json_answer(self._words.plain(self._text(), self._reason, self._counts))
        if self.number == self.owner.faults.die_mid_stream:
            self.door.write(answer[: len(answer) - 100])
            self._timer = self.owner.loop.call_later(0.02, self.owner.die)
            return
        self.end()
        self.door.write(answer)

    def instant_answer(self) -> tuple[int, bytes, bytes]:
        """The number of tokens of a plain answer, and its bytes before and after its id."""
        self._counts.predicted = self._tokens
        answer = answers.json_answer(self._words.plain(self._text(), self._reason, self._counts))
        before, number, after = answer.partition(b"%032d" % self.number)
        assert number
        return self._tokens, before, after

    def _text(self) -> bytes:
        return b'"' + b"".join(self._content(index)[1:-1] for index in range(self._tokens)) + b'"'

    def _answer_embeddings(self) -> None:
        self.end()
        status = self.owner.faults.fail_embeddings
        if status:
            self.owner.strike()
            message = "This server does not support embeddings. Start it with `--embeddings`"
            self.door.write_and_close(answers.error_answer(status, message))
        else:
            body = answers.embeddings(self._ask.model or self._alias, self._ask.input)
            self.door.write(answers.json_answer(body))

    def wrong_answer(self, faults: Faults) -> bytes | None:
        """The bytes of the answer that a fault asks for; None where none does."""
        if faults.status:
            return answers.error_answer(faults.status, f"the stub was told to answer {faults.status}")
        if faults.garbage:
            return b"\x00\x01SSH-2.0-garbage\r\n\r\n"
        if faults.half_head:
            return b"HTTP/1.1 200 OK\r\nContent-Le"
        if faults.error_event_then_done and self._ask.stream:
            event = b"data: " + answers.error_body(500, "EngineCore encountered an issue") + b"\n\n" + answers.DONE
            return answers.STREAM_HEAD + b"%x\r\n%b\r\n" % (len(event), event) + answers.LAST_CHUNK
        if faults.wrong_length:
            body = self._words.plain(self._text(), self._reason, self._counts)
            announced = len(body) + (20 if faults.wrong_length == "shorter" else -20)
            return answers.JSON_HEAD % announced + b"\r\n" + body
        return None
