"""Opens an incident when something unwanted happens to a backend, follows it, and closes it once it is over."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.guard import Move, Order
from supervisord.core.incident import (
    LOG_LINES,
    LONGEST_S,
    SAMPLES_AFTER_S,
    SAMPLES_BEFORE_S,
    Cost,
    Incident,
    IncidentKind,
    Step,
)
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, EventKind, EventRecord, JobRecord, JobResult
from supervisord.core.state import After, BackendState, Phase
from supervisord.engine.casualties import Casualties
from supervisord.engine.generation import Generation
from supervisord.engine.history import History
from supervisord.engine.journal import Journal
from supervisord.engine.world import Witnessed
from supervisord.ports import Clock, JobStore, Timer

MOST_STEPS = 100  # of one incident
MOST_SAMPLED = 64  # incidents at a time that wait for the samples after them; beyond that they go without
_UNFINISHED = "it was not over by then: this is as far as it was followed"
_ENDED_BY_US = frozenset({CauseKind.HANG, CauseKind.LOAD_STALL})
_SETTLED = frozenset({Phase.READY, Phase.PARKED, Phase.STOPPED})


@dataclass(slots=True)
class _Followed:
    """An incident that is not over, or whose samples are not whole. `began`: monotonic seconds."""

    incident: Incident
    generation: Generation | None
    began: float
    end: Timer | None = None  # it is followed no longer
    steps: list[Step] = field(default_factory=list)
    retried: set[str] = field(default_factory=set)  # ids of jobs
    failed: set[str] = field(default_factory=set)


class Incidents:
    """The only writer of incidents; at most one of each backend is followed."""

    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        journal: Journal,
        history: History,
        *,
        casualties: Casualties,
        new_id: Callable[[], str],
        in_flight: Callable[[str], tuple[str, ...]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._history = history
        self._new_id = new_id
        self._in_flight = in_flight
        self._casualties = casualties
        self._open: dict[str, _Followed] = {}
        self._sampled: dict[str, Timer] = {}  # by incident: when its samples are whole
        journal.listen(self._heard)
        journal.on_finished(self._finished)

    # --- what happens to backends ------------------------------------------------------------------------------------

    def changed(self, backend: Witnessed, before: BackendState, after: BackendState) -> None:
        """A backend entered another phase, or another generation."""
        if before.phase is after.phase and before.generation == after.generation:
            return
        kind = _unwanted(before, after)
        if kind is not None:
            self._begin(backend, kind, before, after)
        self._correct(backend.name, before, after.cause)
        self._step(backend.name, f"{after.phase.value}: {after.reason}" if after.reason else after.phase.value)
        if after.phase in _SETTLED:
            self._close(backend.name, _outcome(after))

    def moved(self, order: Order, backend: Witnessed) -> None:
        """A backend is asked to give up memory, for the machine's sake."""
        kind = IncidentKind.EVICTED if order.move is Move.EVICT else IncidentKind.SHRUNK
        self._open_one(backend, kind, order.why, backend.state, None)

    # --- its story ---------------------------------------------------------------------------------------------------

    def _begin(self, backend: Witnessed, kind: IncidentKind, before: BackendState, after: BackendState) -> None:
        followed = self._open.get(backend.name)
        if kind is IncidentKind.UNKILLABLE and followed is not None:
            followed.incident = replace(followed.incident, kind=kind)  # the same story, gone worse
            return
        cause = after.cause
        summary = cause.summary if cause is not None else after.reason
        self._open_one(backend, kind, summary, before, cause)

    def _open_one(
        self, backend: Witnessed, kind: IncidentKind, summary: str, before: BackendState, cause: ExitCause | None
    ) -> None:
        name, now = backend.name, self._clock.monotonic()
        self._close(name, f"it went on with: {summary}")
        generation = backend.generation
        lately = self._casualties.of(name, generation.number) if generation is not None else ()
        in_flight = (*self._in_flight(name), *(each.job_id for each in lately))
        incident = Incident(
            id=f"i{self._new_id()}",
            at=self._clock.wall(),
            backend=name,
            kind=kind,
            summary=summary,
            generation=generation.number if generation is not None else None,
            cause=cause.kind.value if cause is not None else "",
            permanent=cause is not None and cause.permanent,
            log=tuple(backend.tail(LOG_LINES)),
            in_flight=tuple(dict.fromkeys(in_flight)),
            facts=_facts(before, generation, cause, now),
            samples=self._history.since(now - SAMPLES_BEFORE_S),
        )
        self._open[name] = followed = _Followed(incident, generation, now)
        followed.retried = {each.job_id for each in lately if each.retried}
        followed.failed = {each.job_id for each in lately if each.failed}
        followed.end = self._clock.call_at(now + LONGEST_S, lambda: self._close(name, _UNFINISHED))
        self._put(_with_ending(followed))
        if len(self._sampled) < MOST_SAMPLED:
            whole_at = now + SAMPLES_AFTER_S
            self._sampled[incident.id] = self._clock.call_at(whole_at, lambda: self._take_samples(followed))
        self._journal.tell(
            EventKind.INCIDENT,
            f"incident {incident.id}: {name}: {summary}",
            backend=name,
            generation=incident.generation,
            incident=incident.id,
            incident_kind=kind.value,
        )

    def _step(self, name: str, what: str) -> None:
        followed = self._open.get(name)
        if followed is not None and len(followed.steps) < MOST_STEPS:
            followed.steps.append(Step(self._clock.wall(), what))

    def _correct(self, name: str, before: BackendState, cause: ExitCause | None) -> None:
        """How it ended may tell more than what it was ended for: a server that hung had run out of memory."""
        followed = self._open.get(name)
        if followed is None or cause is None or followed.incident.generation != before.generation:
            return
        known = followed.incident
        if not known.cause or (known.cause, known.summary) == (cause.kind.value, cause.summary):
            return
        facts = {**known.facts, "evidence": list(cause.evidence), "ended_for": known.summary}
        followed.incident = replace(
            known,
            kind=known.kind if cause.kind in _ENDED_BY_US else IncidentKind.EXIT,
            cause=cause.kind.value,
            summary=cause.summary,
            permanent=cause.permanent,
            facts=facts,
        )

    def _close(self, name: str, outcome: str) -> None:
        followed = self._open.pop(name, None)
        if followed is None:
            return
        if followed.end is not None:
            followed.end.cancel()
        followed.incident = replace(
            _with_ending(followed),
            steps=tuple(followed.steps),
            ended_at=self._clock.wall(),
            outcome=outcome,
            cost=Cost(self._clock.monotonic() - followed.began, len(followed.retried), len(followed.failed)),
        )
        if followed.incident.id in self._sampled:
            followed.incident = self._with_samples(followed)
        self._put(followed.incident)

    def _take_samples(self, followed: _Followed) -> None:
        """The time around it is over, whether it is itself or not."""
        del self._sampled[followed.incident.id]
        followed.incident = self._with_samples(followed)
        is_over = followed.incident.ended_at is not None
        self._put(followed.incident if is_over else _with_ending(followed))

    def _with_samples(self, followed: _Followed) -> Incident:
        return replace(followed.incident, samples=self._history.since(followed.began - SAMPLES_BEFORE_S))

    def _put(self, incident: Incident) -> None:
        with suppress(StoreUnavailableError):  # the store tells of its own trouble; the events are in the log
            self._store.put_incident(incident)

    # --- what it costs -----------------------------------------------------------------------------------------------

    def _heard(self, event: EventRecord) -> None:
        self._casualties.heard(event)
        if event.backend is None or event.backend not in self._open:
            return
        followed = self._open[event.backend]
        if event.kind is EventKind.RETRY and event.job_id is not None:
            followed.retried.add(event.job_id)
        elif event.kind in {EventKind.RUNG, EventKind.GUARD, EventKind.HELD}:
            self._step(event.backend, event.message)

    def _finished(self, job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        self._casualties.finished(job, result, attempt)
        if result.status is JobStatus.FAILED:  # here, or on another backend that it was tried on instead
            for followed in self._open.values():
                if job.id in followed.incident.in_flight:
                    followed.failed.add(job.id)

    def close(self) -> None:
        """The daemon goes down: nothing is followed any further."""
        for name in list(self._open):
            self._close(name, "the daemon went down")
        for timer in self._sampled.values():
            timer.cancel()
        self._sampled.clear()


def _with_ending(followed: _Followed) -> Incident:
    """What is known of it with how its process ended, if that has happened by now."""
    generation = followed.generation
    if generation is None or generation.status is None:
        return followed.incident
    return replace(
        followed.incident,
        status=generation.status,
        verdict=generation.rules,
        log=generation.last_words[-LOG_LINES:] or followed.incident.log,
        facts={**followed.incident.facts, "group": _group(generation), "diagnosis": dict(generation.diagnosis)},
    )


def _unwanted(before: BackendState, after: BackendState) -> IncidentKind | None:
    """What kind of incident a change is; None: it is what was wanted."""
    if after.phase is Phase.UNKILLABLE:
        return IncidentKind.UNKILLABLE
    if after.phase is Phase.STOPPING and before.phase is not Phase.STOPPING and after.after is After.JUDGE:
        match None if after.cause is None else after.cause.kind:
            case CauseKind.HANG:
                return IncidentKind.HANG
            case CauseKind.LOAD_STALL:
                return IncidentKind.LOAD_STALL
            case _:
                return IncidentKind.EXIT
    if before.phase is Phase.STARTING and after.phase in {Phase.BACKOFF, Phase.PARKED}:
        return None if _is_exhausted(before) and _is_exhausted(after) else IncidentKind.REFUSED
    return None


def _is_exhausted(state: BackendState) -> bool:
    """Whether the start before could not be made for want of descriptors or the like: told once, while it lasts."""
    return state.cause is not None and state.cause.kind is CauseKind.EXHAUSTED


def _outcome(after: BackendState) -> str:
    match after.phase:
        case Phase.READY:
            return f"ready again on rung {after.rung}" if after.rung else "ready again"
        case Phase.PARKED:
            return f"parked: {after.reason}"
        case _:
            return f"stopped: {after.reason}"


def _facts(
    before: BackendState, generation: Generation | None, cause: ExitCause | None, now: float
) -> Mapping[str, object]:
    facts: dict[str, object] = {
        "phase_before": before.phase.value,
        "rung": before.rung,
        "in_flight": before.in_flight,
        "evidence": list(cause.evidence) if cause is not None else [],
    }
    if generation is None:
        return facts
    usage = generation.usage
    facts |= {
        "rung_name": generation.rung_name,
        "footprint": asdict(generation.footprint),
        "argv": list(generation.launched.argv) if generation.launched is not None else [],
        "pids": sorted(generation.pids - {0}),
        "lived_s": round(now - generation.spawned, 3),
        "was_ready": generation.was_ready,
        "peak_vram_bytes": generation.peak_vram,
        "peak_ram_bytes": generation.peak_ram,
        "rss_bytes": usage.rss if usage is not None else None,
        "swap_bytes": usage.swap if usage is not None else None,
        "group": _group(generation),
        "diagnosis": dict(generation.diagnosis),
        "identity": asdict(generation.identity),
    }
    return facts


def _group(generation: Generation) -> Mapping[str, object] | None:
    usage = generation.process.group_usage() if generation.process is not None else None
    return asdict(usage) if usage is not None else None
