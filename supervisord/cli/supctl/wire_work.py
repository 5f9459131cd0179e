"""Batches and waiting lines in the daemon's answers. Times are seconds since the epoch, spans seconds."""

from dataclasses import dataclass

from supervisord.cli.supctl.wire import Doc

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
VALIDATING = "validating"


@dataclass(frozen=True, slots=True)
class Counts:
    """The lines of a batch. `ended` are those of the last four together."""

    waiting: int
    running: int
    ended: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int

    @classmethod
    def read(cls, doc: Doc) -> "Counts":
        return cls(
            waiting=doc.count("waiting"),
            running=doc.count("running"),
            ended=doc.count("ended"),
            succeeded=doc.count("succeeded"),
            failed=doc.count("failed"),
            cancelled=doc.count("cancelled"),
            expired=doc.count("expired"),
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a batch; `line` of its input, where it is of one."""

    line: int | None
    message: str

    @classmethod
    def read(cls, doc: Doc) -> "Fault":
        return cls(line=doc.whole("line"), message=doc.text("message"))


@dataclass(frozen=True, slots=True)
class Batch:
    id: str
    door: str
    endpoint: str
    client: str
    status: str
    created_at: float | None
    expires_at: float | None
    at: Doc  # when it entered each status
    input_file: str
    metadata: Doc
    total: int
    counts: Counts
    faults: tuple[Fault, ...]

    @classmethod
    def read(cls, doc: Doc) -> "Batch":
        return cls(
            id=doc.text("id"),
            door=doc.text("door"),
            endpoint=doc.text("endpoint"),
            client=doc.text("client"),
            status=doc.text("status"),
            created_at=doc.number("created_at"),
            expires_at=doc.number("expires_at"),
            at=doc.child("at"),
            input_file=doc.text("input_file"),
            metadata=doc.child("metadata"),
            total=doc.count("total"),
            counts=Counts.read(doc.child("counts")),
            faults=tuple(Fault.read(item) for item in doc.each("errors")),
        )

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    @property
    def is_good(self) -> bool:
        """It is over, and every line of it has its answer."""
        return self.status == "completed" and self.counts.succeeded == self.counts.ended

    @property
    def bad(self) -> int:
        """Lines that will never have an answer."""
        return self.counts.ended - self.counts.succeeded


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs that wait alike. `left_s`: about how long until the last of them is done, as things go now."""

    model: str
    priority: str
    client: str
    durable: bool
    waiting: int
    waits_for: str
    oldest_s: float | None
    per_s: float | None
    left_s: float | None

    @classmethod
    def read(cls, doc: Doc) -> "Line":
        return cls(
            model=doc.text("model"),
            priority=doc.text("priority"),
            client=doc.text("client"),
            durable=doc.flag("durable"),
            waiting=doc.count("waiting"),
            waits_for=doc.text("waits_for"),
            oldest_s=doc.number("oldest_s"),
            per_s=doc.number("per_s"),
            left_s=doc.number("left_s"),
        )
