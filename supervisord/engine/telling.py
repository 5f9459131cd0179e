"""What the life of a backend looks like in the journal."""

from supervisord.core.exits import ExitCause
from supervisord.core.ladder import Footprint
from supervisord.core.record import EventKind
from supervisord.core.state import BackendState
from supervisord.engine.generation import Generation
from supervisord.engine.journal import Journal


def phase(journal: Journal, name: str, before: BackendState, after: BackendState) -> None:
    """It entered another phase."""
    because = f": {after.reason}" if after.reason else ""
    journal.tell(
        EventKind.PHASE,
        f"{name} is {after.phase}{because}",
        backend=name,
        generation=after.generation,
        before=before.phase.value,
        phase=after.phase.value,
        rung=after.rung,
        restarts=after.restarts,
    )


def rung(
    journal: Journal, name: str, *, before: BackendState, after: BackendState, now: Footprint, described: str
) -> None:
    """It goes on with another footprint."""
    journal.tell(
        EventKind.RUNG,
        f"{name} goes to rung {after.rung} ({described})",
        backend=name,
        generation=after.generation,
        before=before.rung,
        rung=after.rung,
        context_tokens=now.context,
        cache_type=now.cache_type,
        gpu_layers=now.gpu_layers,
        gpu_utilization=now.gpu_utilization,
        sequences=now.sequences,
    )


def end(
    journal: Journal, name: str, generation: Generation, *, status: int, cause: ExitCause, log_tail: list[str]
) -> None:
    """Its leader ended, and why."""
    journal.tell(
        EventKind.EXIT,
        f"{name} ended: {cause.summary}",
        backend=name,
        generation=generation.number,
        status=status,
        cause=cause.kind.value,
        permanent=cause.permanent,
        evidence=list(cause.evidence),
        log_tail=log_tail,
    )


def breaker(journal: Journal, name: str, after: BackendState) -> None:
    """No more requests are sent to it for a while."""
    journal.tell(EventKind.DISPATCH_PAUSED, f"{name}: {after.reason}", backend=name, generation=after.generation)


def stop_failed(journal: Journal, name: str, generation: Generation, problem: str) -> None:
    """Its configured stop command did not do its work; the signal follows."""
    journal.tell(
        EventKind.PHASE,
        f"the stop command of {name} failed: {problem}",
        backend=name,
        generation=generation.number,
    )
