"""The backends that went down under one job, and whether it is to blame: what `core.poison` judges."""

from dataclasses import dataclass, replace

from supervisord.core.poison import DEADLY, Death, cause_of, is_poison, lives
from supervisord.engine.backend import Backend
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.tickets import Lease


@dataclass(frozen=True, slots=True)
class _Fall:
    backend: Backend
    before: Death  # as it was known when the attempt ended

    @property
    def death(self) -> Death:
        """With its cause, as soon as that has been told; until then its process seems to live."""
        state, number = self.backend.state, self.before.generation
        cause = cause_of(state, number)
        return replace(self.before, cause=None if cause is None else cause.kind, lives=lives(state, number))


class Suspicion:
    """Owned by the call that serves the job."""

    def __init__(self) -> None:
        self._falls: list[_Fall] = []

    def note(self, lease: Lease, outcome: AttemptOutcome, *, others: int) -> None:
        """An attempt ended; `others`: jobs that were in flight beside it when the first of them broke off."""
        backend = lease.backend
        if outcome.reason not in DEADLY or not backend.runtime.has_process:
            return
        proven = backend.latency_s is not None  # it is known of answers that came to their end
        death = Death(backend.name, lease.generation.number, outcome.reason, others=others, proven=proven)
        self._falls.append(_Fall(backend, death))

    @property
    def is_enough(self) -> bool:
        """Whether the job is poison, by what is known now: a process that lives has not gone down."""
        return is_poison(fall.death for fall in self._falls)

    @property
    def may_be_enough(self) -> bool:
        """The same, should those that seem to live turn out to have gone down: two may have within milliseconds."""
        return is_poison(replace(fall.death, lives=False) for fall in self._falls)

    @property
    def is_certain(self) -> bool:
        """Whether the cause of each is known. A connection breaks before the exit of its server is told."""
        return all(fall.death.cause is not None for fall in self._falls)

    @property
    def words(self) -> str:
        """What the job did, for its client and its record."""
        names = " and ".join(f"{fall.backend.name} (generation {fall.before.generation})" for fall in self._falls)
        return f"The backends went down under this job, one after the other: {names}. It is not tried again."
