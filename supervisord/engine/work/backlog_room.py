"""How much of the durable work may be in memory at a time, and whose."""

from dataclasses import dataclass, field

MOST_HELD = 1024  # jobs in memory: each is a task, and a place in the queue
MOST_HELD_BYTES = 32 * 1024 * 1024  # of their bodies; one of a body that is longer than that goes alone

Share = tuple[int, str]  # a class of priority, and the main name of a model


@dataclass(slots=True)
class _Held:
    jobs: int = 0
    size: int = 0


@dataclass(slots=True)
class Room:
    """Every class of every model that has work has an equal share: however large the requests for one are, another
    whose backends are idle gets some, and what is urgent does not stand behind what is not.

    A share that shrinks takes nothing back, so with n of them there may be 1 + 1/2 + … + 1/n times as much, and at
    the most one body more of each.
    """

    _jobs: dict[str, tuple[Share, int]] = field(default_factory=dict)
    _shares: dict[Share, _Held] = field(default_factory=dict)

    def __len__(self) -> int:
        """Jobs in memory."""
        return len(self._jobs)

    def take(self, job_id: str, share: Share, size: int) -> None:
        """A job comes into memory, with a body of so many bytes."""
        self._jobs[job_id] = share, size
        held = self._shares.setdefault(share, _Held())
        held.jobs += 1
        held.size += size

    def let_go(self, job_id: str) -> None:
        """It leaves; nothing happens where it was not there."""
        share, size = self._jobs.pop(job_id, (None, 0))
        if share is None:
            return
        held = self._shares[share]
        held.jobs -= 1
        held.size -= size
        if not held.jobs:
            del self._shares[share]

    def jobs(self, share: Share) -> int:
        """How many more of a class of a model may come into memory; one that has none there has room for one."""
        held = self._shares.get(share)
        if held is None:
            return max(1, MOST_HELD // (len(self._shares) + 1))
        return max(0, MOST_HELD // len(self._shares) - held.jobs) if self.size(share) > 0 else 0

    def size(self, share: Share) -> int:
        """How many bytes of bodies more, where that is above 0."""
        held = self._shares.get(share)
        return MOST_HELD_BYTES // (len(self._shares) + 1) if held is None else self._left(held)

    def _left(self, held: _Held) -> int:
        return MOST_HELD_BYTES // len(self._shares) - held.size
