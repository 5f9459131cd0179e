"""What the writer commits next: the records handed over since the last commit, folded to one row each.

A quick job is queued, started and finished between two commits; folded, it costs one row instead of three. Folding
happens on the caller's thread, record by record, so that the writer never holds the interpreter lock for long.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from supervisord.adapters.store.incidents import Packed, compressed
from supervisord.adapters.store.statements import Row
from supervisord.core.job import TERMINAL
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, Identity, JobRecord, JobResult

# status, attempt, backend, generation, started_at, queue_wait_s, finished_at, reason, detail
State = tuple[object, ...]
QUEUED: Final[State] = ("queued", 0, None, None, None, None, None, None, "")
_ATTEMPT, _GENERATION, _STARTED_AT, _FINISHED_AT = 1, 3, 4, 6

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1

ProfileKey = tuple[str, int, str, str, str, Identity]


@dataclass(frozen=True, slots=True)
class Rows:
    """One group as rows, in the order of the columns in `sql/`."""

    requests: tuple[Row, ...] = ()
    outputs: tuple[Row, ...] = ()
    jobs: tuple[Row, ...] = ()
    moves: tuple[Row, ...] = ()
    profiles: tuple[Row, ...] = ()
    attempts: tuple[Row, ...] = ()
    events: tuple[Row, ...] = ()
    footprints: tuple[Row, ...] = ()
    incidents: tuple[Row, ...] = ()
    incident_jobs: tuple[Row, ...] = ()
    incident_evidence: tuple[Row, ...] = ()


@dataclass(slots=True)
class Profiles:
    """The ids of what is in the table `profiles`: what served, told once."""

    ids: dict[ProfileKey, int] = field(default_factory=dict)

    def add(self, key: ProfileKey) -> int:
        number = max(self.ids.values(), default=0) + 1
        self.ids[key] = number
        return number


@dataclass(slots=True)
class Group:
    """Not thread-safe: the writer guards the open group with its lock, and owns the ones it has taken."""

    known_profiles: Profiles
    records: int = 0
    body_bytes: int = 0
    since: float = 0.0  # monotonic, of the first record
    _jobs: dict[str, Row] = field(default_factory=dict)
    _states: dict[str, State] = field(default_factory=dict)
    _requests: dict[str, bytes] = field(default_factory=dict)
    _outputs: dict[str, bytes] = field(default_factory=dict)
    _profiles: list[Row] = field(default_factory=list)
    _attempts: list[Row] = field(default_factory=list)
    _events: list[Row] = field(default_factory=list)
    _footprints: dict[str, Row] = field(default_factory=dict)
    _incidents: dict[str, Packed] = field(default_factory=dict)

    def job(self, job: JobRecord, body: bytes | None) -> None:
        self.records += 1
        if job.id in self._jobs:
            return
        # sqlite3 binds exact int, float and str at once, and asks its adapters about subclasses, ten times slower.
        self._jobs[job.id] = (
            job.id,
            job.endpoint,
            job.model,
            int(job.priority),
            1 if job.stream else 0,
            job.client,
            job.submitted_at,
            job.max_tokens,
            job.temperature,
        )
        if body is not None:
            self._requests[job.id] = body
            self.body_bytes += len(body)

    def started(self, job_id: str, number: int, backend: str, generation: int, at: float) -> None:
        self.records += 1
        before = self._states.get(job_id, QUEUED)
        if before[_FINISHED_AT] is not None or number <= before[_ATTEMPT]:  # type: ignore[operator] # an int
            return
        first = at if before[_STARTED_AT] is None else before[_STARTED_AT]
        self._states[job_id] = ("running", number, backend, generation, first, None, None, None, "")

    def result(self, result: JobResult, output: bytes | None) -> None:
        if result.status not in TERMINAL:
            raise ValueError(f"a result is final; {result.status} is not")
        self.records += 1
        before = self._states.get(result.job_id, QUEUED)
        if before[_FINISHED_AT] is not None:
            return
        self._states[result.job_id] = (
            result.status._value_,
            result.attempts,
            result.backend,
            before[_GENERATION],
            before[_STARTED_AT],
            result.queue_wait_s,
            result.finished_at,
            None if result.reason is None else result.reason._value_,
            result.detail,
        )
        if output is not None:
            self._outputs[result.job_id] = output
            self.body_bytes += len(output)

    def attempt(self, attempt: AttemptRecord) -> None:
        self.records += 1
        usage = attempt.usage
        self._attempts.append(
            (
                attempt.job_id,
                attempt.number,
                attempt.backend,
                attempt.generation,
                self._profile(attempt),
                attempt.started_at,
                attempt.queue_wait_s,
                attempt.duration_s,
                attempt.ttft_s,
                usage.tokens_in,
                usage.tokens_cached,
                usage.tokens_out,
                usage.tokens_per_second,
                attempt.http_status,
                attempt.status._value_,
                None if attempt.reason is None else attempt.reason._value_,
                attempt.detail,
                attempt.bytes_out,
            )
        )

    def event(self, event: EventRecord) -> None:
        self.records += 1
        self._events.append(
            (
                event.at,
                event.kind._value_,
                event.message,
                event.backend,
                event.generation,
                event.job_id,
                _json(event.data),
            )
        )

    def footprint(self, footprint: FootprintRecord) -> None:
        """The last one of a key counts."""
        self.records += 1
        self._footprints[footprint.key] = (
            footprint.key,
            footprint.backend,
            footprint.at,
            footprint.vram,
            footprint.ram,
            footprint.load_s,
        )

    def incident(self, incident_id: str, packed: Packed) -> None:
        """The last state of an incident counts."""
        self.records += 1
        before = self._incidents.get(incident_id)
        self.body_bytes += len(packed.evidence) - (0 if before is None else len(before.evidence))
        self._incidents[incident_id] = packed

    def _profile(self, attempt: AttemptRecord) -> int:
        who = attempt.identity
        key = (attempt.runtime, attempt.rung, attempt.rung_name, attempt.rung_why, attempt.hardware, who)
        known = self.known_profiles.ids.get(key)
        if known is not None:
            return known
        number = self.known_profiles.add(key)
        told = (who.model, who.quantization, who.context_length, who.template_hash, who.build, who.slots)
        self._profiles.append((number, *key[:-1], *told))
        return number

    def rows(self) -> Rows:
        """Everything, for one transaction. The group is unchanged: it can be written again after a failure."""
        states, incidents = self._states, self._incidents
        return Rows(
            requests=tuple(self._requests.items()),
            outputs=tuple((job_id, output, job_id in self._jobs) for job_id, output in self._outputs.items()),
            jobs=tuple((*job, *states.get(job_id, QUEUED)) for job_id, job in self._jobs.items()),
            moves=tuple((job_id, *state) for job_id, state in states.items() if job_id not in self._jobs),
            profiles=tuple(self._profiles),
            attempts=tuple(self._attempts),
            events=tuple(self._events),
            footprints=tuple(self._footprints.values()),
            incidents=tuple(packed.row for packed in incidents.values()),
            incident_jobs=tuple((each, job_id) for each, packed in incidents.items() for job_id in packed.jobs),
            incident_evidence=tuple((each, compressed(packed.evidence)) for each, packed in incidents.items()),
        )

    def pieces(self) -> Iterator[tuple[str, Rows]]:
        """One record at a time, in a form that SQLite takes, each with its name: to save what can be saved."""
        every = self.rows()
        for row in every.profiles:
            yield "a profile", Rows(profiles=(_clean(row),))
        for row in every.jobs:
            yield f"job {row[0]}", Rows(*self._bodies(row, new=True), jobs=(_clean(row),))
        for row in every.moves:
            yield f"the state of job {row[0]}", Rows(*self._bodies(row, new=False), moves=(_clean(row),))
        for row in every.attempts:
            yield f"attempt {row[1]} of job {row[0]}", Rows(attempts=(_clean(row),))
        for row in every.events:
            yield "an event", Rows(events=(_clean(row),))
        for row in every.footprints:
            yield f"the footprint of {row[1]}", Rows(footprints=(_clean(row),))
        for row, body in zip(every.incidents, every.incident_evidence, strict=True):
            jobs = tuple(_clean(each) for each in every.incident_jobs if each[0] == row[0])
            yield (
                f"incident {row[0]}",
                Rows(incidents=(_clean(row),), incident_jobs=jobs, incident_evidence=(_clean(body),)),
            )

    def _bodies(self, row: Row, *, new: bool) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        job_id = str(row[0])
        request, output = self._requests.get(job_id), self._outputs.get(job_id)
        return (
            () if request is None else (_clean((job_id, request)),),
            () if output is None else (_clean((job_id, output, new)),),
        )


def _json(data: Mapping[str, object]) -> str:
    """Encoded at once, on the caller's thread: what it holds may change later."""
    if not data:
        return "{}"
    try:
        return msgspec.json.encode(data).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return msgspec.json.encode({"unreadable": repr(error)}).decode()


def _clean(row: Row) -> Row:
    return tuple(_clean_value(value) for value in row)


def _clean_value(value: object) -> object:
    """A value as SQLite can hold it: lone surrogates are spelt out, integers past 64 bits become the last that fit."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        return min(max(value, _SMALLEST), _LARGEST)
    return value
