"""Records in the daemon's answers: jobs with their attempts, and events. Times are seconds since the epoch."""

from dataclasses import dataclass

from supervisord.cli.supctl.wire import Doc


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    backend: str
    generation: int | None
    runtime: str
    rung: int | None
    rung_name: str
    rung_why: str
    hardware: str
    model: str
    quantization: str
    context_tokens: int | None
    template_hash: str
    build: str
    started_at: float | None
    queue_wait_s: float | None
    duration_s: float | None
    ttft_s: float | None
    tokens_in: int | None
    tokens_cached: int | None
    tokens_out: int | None
    tokens_per_second: float | None
    http_status: int | None
    status: str
    reason: str
    detail: str

    @classmethod
    def read(cls, doc: Doc) -> "Attempt":
        return cls(
            number=doc.count("number"),
            backend=doc.text("backend"),
            generation=doc.whole("generation"),
            runtime=doc.text("runtime"),
            rung=doc.whole("rung"),
            rung_name=doc.text("rung_name"),
            rung_why=doc.text("rung_why"),
            hardware=doc.text("hardware"),
            model=doc.text("model"),
            quantization=doc.text("quantization"),
            context_tokens=doc.whole("context_tokens"),
            template_hash=doc.text("template_hash"),
            build=doc.text("build"),
            started_at=doc.number("started_at"),
            queue_wait_s=doc.number("queue_wait_s"),
            duration_s=doc.number("duration_s"),
            ttft_s=doc.number("ttft_s"),
            tokens_in=doc.whole("tokens_in"),
            tokens_cached=doc.whole("tokens_cached"),
            tokens_out=doc.whole("tokens_out"),
            tokens_per_second=doc.number("tokens_per_second"),
            http_status=doc.whole("http_status"),
            status=doc.text("status"),
            reason=doc.text("reason"),
            detail=doc.text("detail"),
        )


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    endpoint: str
    model: str
    priority: str
    stream: bool
    client: str
    status: str
    reason: str
    detail: str
    submitted_at: float | None
    finished_at: float | None
    queue_wait_s: float | None
    max_tokens: int | None
    temperature: float | None
    backend: str
    attempts_count: int
    attempts: tuple[Attempt, ...]
    batch: str
    line: int | None
    custom_id: str
    deadline_at: float | None
    metadata: Doc
    position: int | None
    waits_for: str

    @classmethod
    def read(cls, doc: Doc) -> "Job":
        attempts = tuple(Attempt.read(item) for item in doc.each("attempts"))
        return cls(
            id=doc.text("id"),
            endpoint=doc.text("endpoint"),
            model=doc.text("model"),
            priority=_priority(doc),
            stream=doc.flag("stream"),
            client=doc.text("client"),
            status=doc.text("status"),
            reason=doc.text("reason"),
            detail=doc.text("detail"),
            submitted_at=doc.number("submitted_at"),
            finished_at=doc.number("finished_at"),
            queue_wait_s=doc.number("queue_wait_s"),
            max_tokens=doc.whole("max_tokens"),
            temperature=doc.number("temperature"),
            backend=doc.text("backend"),
            attempts_count=max(doc.count("attempts_count"), len(attempts)),
            attempts=attempts,
            batch=doc.text("batch"),
            line=doc.whole("line"),
            custom_id=doc.text("custom_id"),
            deadline_at=doc.number("deadline_at"),
            metadata=doc.child("metadata"),
            position=doc.whole("position"),
            waits_for=doc.text("waits_for"),
        )

    @property
    def took_s(self) -> float | None:
        """From submission to the end; None while it goes on."""
        if self.submitted_at is None or self.finished_at is None:
            return None
        return max(0.0, self.finished_at - self.submitted_at)


def _priority(doc: Doc) -> str:
    number = doc.whole("priority")  # a number where the daemon sends its level instead of the label
    return doc.text("priority") if number is None else str(number)


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    at: float | None
    kind: str
    message: str
    backend: str
    generation: int | None
    job_id: str

    @classmethod
    def read(cls, doc: Doc) -> "Event":
        return cls(
            id=doc.count("id"),
            at=doc.number("at"),
            kind=doc.text("kind"),
            message=doc.text("message"),
            backend=doc.text("backend"),
            generation=doc.whole("generation"),
            job_id=doc.text("job_id"),
        )
