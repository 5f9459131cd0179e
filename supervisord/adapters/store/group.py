"""What the writer commits next: the records handed over since the last commit, folded to one row each.

A quick job is queued, started and finished between two commits; folded, it costs one row instead of three. Folding
happens on the caller's thread, record by record, so that the writer never holds the interpreter lock for long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from supervisord.adapters.store.incidents import Packed, compressed
from supervisord.adapters.store.packing import packed_attempt, packed_event, packed_footprint, packed_job
from supervisord.adapters.store.plain import clean_row
from supervisord.adapters.store.statements import Row
from supervisord.core.job import TERMINAL
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, Identity, JobRecord, JobResult

# status, attempt, backend, generation, started_at, queue_wait_s, finished_at, reason, detail, http_status,
# content_type, failures
State = tuple[object, ...]
QUEUED: Final[State] = ("queued", 0, None, None, None, None, None, None, "", None, "", None)
_ATTEMPT, _GENERATION, _STARTED_AT, _FINISHED_AT, _FAILURES = 1, 3, 4, 6, 11

ProfileKey = tuple[str, int, str, str, str, Identity]


@dataclass(frozen=True, slots=True)
class Rows:
    """One group as rows, in the order of the columns in `sql/`."""

    requests: tuple[Row, ...] = ()
    outputs: tuple[Row, ...] = ()
    jobs: tuple[Row, ...] = ()
    moves: tuple[Row, ...] = ()
    ended: tuple[Row, ...] = ()
    streams: tuple[Row, ...] = ()
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
    life: int = 1  # of the daemon, in this store
    keep_bodies: bool = True  # of jobs that are not durable, and the requests of those that are
    records: int = 0
    body_bytes: int = 0
    since: float = 0.0  # monotonic, of the first record
    _jobs: dict[str, Row] = field(default_factory=dict)
    _states: dict[str, State] = field(default_factory=dict)
    _requests: dict[str, bytes] = field(default_factory=dict)
    _outputs: dict[str, bytes] = field(default_factory=dict)
    _streams: dict[tuple[str, int], bytes] = field(default_factory=dict)
    _profiles: list[Row] = field(default_factory=list)
    _attempts: list[Row] = field(default_factory=list)
    _events: list[Row] = field(default_factory=list)
    _footprints: dict[str, Row] = field(default_factory=dict)
    _incidents: dict[str, Packed] = field(default_factory=dict)

    def job(self, job: JobRecord, body: bytes | None) -> None:
        self.records += 1
        if job.id in self._jobs:
            return
        self._jobs[job.id] = packed_job(job)
        if body is not None:
            self._requests[job.id] = body
            self.body_bytes += len(body)

    def started(self, job_id: str, number: int, backend: str, generation: int, at: float) -> None:
        self.records += 1
        before = self._states.get(job_id, QUEUED)
        if before[_FINISHED_AT] is not None or number <= before[_ATTEMPT]:  # type: ignore[operator] # an int
            return
        first = at if before[_STARTED_AT] is None else before[_STARTED_AT]
        failures = before[_FAILURES]
        self._states[job_id] = (
            "running", number, backend, generation, first, None, None, None, "", None, "", failures,
        )  # fmt: skip

    def requeued(self, job_id: str, number: int, detail: str, failures: int) -> None:
        """Only of durable jobs, and none of those that are put."""
        self.records += 1
        before = self._states.get(job_id, QUEUED)
        if before[_FINISHED_AT] is not None or number < before[_ATTEMPT]:  # type: ignore[operator] # an int
            return
        if job_id in self._jobs:
            return
        first = before[_STARTED_AT]
        self._states[job_id] = (
            "queued", number, None, before[_GENERATION], first, None, None, None, detail, None, "", failures,
        )  # fmt: skip

    def result(self, result: JobResult, output: bytes | None) -> None:
        if result.status not in TERMINAL:
            raise ValueError(f"a result is final; {result.status} is not")
        self.records += 1
        before = self._states.get(result.job_id, QUEUED)
        if before[_FINISHED_AT] is not None or result.attempts < before[_ATTEMPT]:  # type: ignore[operator] # an int
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
            result.http_status,
            result.content_type,
            before[_FAILURES],
        )
        if output is not None and (self.keep_bodies or result.job_id not in self._jobs):
            self._outputs[result.job_id] = output
            self.body_bytes += len(output)

    def attempt(self, attempt: AttemptRecord) -> None:
        self.records += 1
        self._attempts.append(packed_attempt(attempt, self._profile(attempt)))

    def stream(self, job_id: str, first: int, events: Sequence[bytes]) -> None:
        """The last event of a number counts."""
        self.records += 1
        for number, event in enumerate(events, first):
            self.body_bytes += len(event) - len(self._streams.get((job_id, number), b""))
            self._streams[job_id, number] = event

    def event(self, event: EventRecord) -> None:
        self.records += 1
        self._events.append(packed_event(event))

    def footprint(self, footprint: FootprintRecord) -> None:
        """The last one of a key counts."""
        self.records += 1
        self._footprints[footprint.key] = packed_footprint(footprint)

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
        moves = [(job_id, state) for job_id, state in states.items() if job_id not in self._jobs]
        return Rows(
            requests=tuple(self._requests.items()),
            outputs=tuple(self._output(job_id, output) for job_id, output in self._outputs.items()),
            jobs=tuple((*job, *states.get(job_id, QUEUED)[:_FAILURES]) for job_id, job in self._jobs.items()),
            moves=tuple((job_id, *state, self.life) for job_id, state in moves),
            ended=() if self.keep_bodies else _ended(moves),
            streams=tuple((*key, event) for key, event in self._streams.items()),
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
            yield "a profile", Rows(profiles=(clean_row(row),))
        yield from self._pieces_of_jobs(every)
        for row in every.events:
            yield "an event", Rows(events=(clean_row(row),))
        for row in every.footprints:
            yield f"the footprint of {row[1]}", Rows(footprints=(clean_row(row),))
        for row, body in zip(every.incidents, every.incident_evidence, strict=True):
            jobs = tuple(clean_row(each) for each in every.incident_jobs if each[0] == row[0])
            yield (
                f"incident {row[0]}",
                Rows(incidents=(clean_row(row),), incident_jobs=jobs, incident_evidence=(clean_row(body),)),
            )

    def _pieces_of_jobs(self, every: Rows) -> Iterator[tuple[str, Rows]]:
        for row in every.jobs:
            yield f"job {row[0]}", Rows(*self._bodies(row), jobs=(clean_row(row),))
        ended = set(every.ended)
        for row in every.moves:
            own = (row[:1],)
            moved = Rows(*self._bodies(row), moves=(clean_row(row),), ended=own if own[0] in ended else ())
            yield f"the state of job {row[0]}", moved
        for row in every.streams:
            yield f"an event of the stream of job {row[0]}", Rows(streams=(clean_row(row),))
        for row in every.attempts:
            yield f"attempt {row[1]} of job {row[0]}", Rows(attempts=(clean_row(row),))

    def _bodies(self, row: Row) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        job_id = str(row[0])
        request, output = self._requests.get(job_id), self._outputs.get(job_id)
        return (
            () if request is None else (clean_row((job_id, request)),),
            () if output is None else (clean_row(self._output(job_id, output)),),
        )

    def _output(self, job_id: str, output: bytes) -> Row:
        state = self._states[job_id]
        is_new = job_id in self._jobs
        return (job_id, output, is_new, state[_ATTEMPT], self.life, state[_FINISHED_AT], self.keep_bodies)


def _ended(moves: Sequence[tuple[str, State]]) -> tuple[Row, ...]:
    return tuple((job_id,) for job_id, state in moves if state[_FINISHED_AT] is not None)
