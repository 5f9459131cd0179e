"""The jobs that are in flight, and where."""

from supervisord.core.job import FailureReason
from supervisord.engine.tickets import Lease


class Leases:
    """Every lease that has not been given back. Changed only by the dispatcher."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._broke: dict[str, tuple[int, int]] = {}  # of each backend: the last generation that broke, and its jobs

    def __len__(self) -> int:
        return len(self._leases)

    def of(self, job_id: str) -> Lease | None:
        """None: it is not in flight."""
        return self._leases.get(job_id)

    def add(self, lease: Lease) -> None:
        """A job got its slot."""
        self._leases[lease.job.id] = lease

    def remove(self, lease: Lease) -> bool:
        """It is given back; False where it had been before."""
        if self._leases.get(lease.job.id) is not lease:
            return False
        del self._leases[lease.job.id]
        return True

    def others_at(self, lease: Lease) -> int:
        """How many other jobs were in flight at its generation when this one, or the first of them, broke off."""
        name, number = lease.backend.name, lease.generation.number
        now = sum(1 for other in self._leases.values() if other.generation is lease.generation)
        known, jobs = self._broke.get(name, (number, 0))
        self._broke[name] = number, max(now, jobs) if known == number else now
        return self._broke[name][1] - 1

    def serving(self, backend: str) -> tuple[str, ...]:
        """The ids of the jobs that a backend is serving."""
        return tuple(lease.job.id for lease in self._leases.values() if lease.backend.name == backend)

    def fail(self, backend: str, generation: int, reason: FailureReason, detail: str) -> None:
        """End every attempt at a generation that will not answer any more."""
        for lease in list(self._leases.values()):
            if lease.backend.name == backend and lease.generation.number == generation and lease.fail is not None:
                lease.fail(reason, detail)

    def break_off(self, job_id: str, reason: FailureReason, detail: str) -> bool:
        """End the attempt of a job that runs; False when it does not."""
        lease = self._leases.get(job_id)
        if lease is None or lease.fail is None:
            return False
        lease.fail(reason, detail)
        return True
