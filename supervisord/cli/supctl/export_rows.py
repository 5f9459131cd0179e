"""Records as rows of a table: a row for each job, with its last attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from supervisord.cli.supctl.wire import Doc

Value = str | int | float | bool | None
Row = Mapping[str, Value]


class Kind(StrEnum):
    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    FLAG = "flag"
    TIME = "time"  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: Kind = Kind.TEXT
    key: str = ""  # in the daemon's JSON, where it is another

    def of(self, doc: Doc) -> Value:
        """Its value; None: there is none."""
        key = self.key or self.name
        match self.kind:
            case Kind.TEXT:
                value = doc.values.get(key)
                return value if isinstance(value, str) and value else None
            case Kind.WHOLE:
                return doc.whole(key)
            case Kind.NUMBER | Kind.TIME:
                return doc.number(key)
            case Kind.FLAG:
                return doc.flag(key)


OF_JOB = (
    Field("id"),
    Field("status"),
    Field("reason"),
    Field("detail"),
    Field("endpoint"),
    Field("model"),
    Field("priority"),
    Field("stream", Kind.FLAG),
    Field("client"),
    Field("origin"),
    Field("batch"),
    Field("line", Kind.WHOLE),
    Field("custom_id"),
    Field("submitted_at", Kind.TIME),
    Field("finished_at", Kind.TIME),
    Field("queue_wait_s", Kind.NUMBER),
    Field("max_tokens", Kind.WHOLE),
    Field("temperature", Kind.NUMBER),
    Field("attempts", Kind.WHOLE, "attempts_count"),
)
OF_ATTEMPT = (
    Field("backend"),
    Field("generation", Kind.WHOLE),
    Field("runtime"),
    Field("build"),
    Field("served_model", key="model"),
    Field("quantization"),
    Field("context_tokens", Kind.WHOLE),
    Field("template_hash"),
    Field("rung", Kind.WHOLE),
    Field("hardware"),
    Field("started_at", Kind.TIME),
    Field("duration_s", Kind.NUMBER),
    Field("ttft_s", Kind.NUMBER),
    Field("tokens_in", Kind.WHOLE),
    Field("tokens_cached", Kind.WHOLE),
    Field("tokens_out", Kind.WHOLE),
    Field("tokens_per_second", Kind.NUMBER),
    Field("http_status", Kind.WHOLE),
)
FIELDS: Sequence[Field] = OF_JOB + OF_ATTEMPT


def row(job: Doc) -> Row:
    """One job of the daemon's list."""
    attempts = job.each("attempts")
    last = attempts[-1] if attempts else Doc({})
    return {field.name: field.of(job) for field in OF_JOB} | {field.name: field.of(last) for field in OF_ATTEMPT}
