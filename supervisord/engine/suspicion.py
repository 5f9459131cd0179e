"""The backends that went down under one job, and whether it is to blame: what `core.poison` judges."""

from dataclasses import dataclass, replace

from supervisord.core.poison import DEADLY, Death, cause_of, is_innocent, is_poison, lives, suspicion
from supervisord.engine.backend import Backend
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.tickets import Lease


@dataclass(slots=True)
class _Fall:
    backend: Backend
    before: Death  # as it was known when the attempt ended
    told: Death | None = None  # with its cause: its backend forgets that when it goes down once more

    @property
    def death(self) -> Death:
        """With its cause, as soon as that has been told; until then its process seems to live."""
        if self.told is not None:
            return self.told
        state, number = self.backend.state, self.before.generation
        cause = cause_of(state, number)
        if cause is None:
            return replace(self.before, lives=lives(state, number))
        self.told = replace(self.before, cause=cause.kind)
        return self.told


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

    def look(self) -> None:
        """Keep what is told of them now: it may be the last moment."""
        for fall in self._falls:
            _ = fall.death

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
    def pardon(self) -> float:
        """How many of them are not to be held against the job, who may have been in company: each in part, or whole."""
        return sum(1.0 - _held_against(fall.death) for fall in self._falls)

    @property
    def is_suspect(self) -> bool:
        """Whether any of them may be the job's doing."""
        return any(not is_innocent(fall.death) for fall in self._falls)

    @property
    def words(self) -> str:
        """What the job did, for its client and its record."""
        names = " and ".join(f"{fall.backend.name} (generation {fall.before.generation})" for fall in self._falls)
        return f"The backends went down under this job, one after the other: {names}. It is not tried again."


def _held_against(death: Death) -> float:
    """A server that lives has cut this one job off: that is a failure like any other."""
    return 1.0 if death.lives else suspicion(death)
