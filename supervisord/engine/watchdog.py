"""Tells the service manager that the daemon is well, only while it is."""

from supervisord.engine.sampler import Sampler
from supervisord.ports import Clock, JobStore, Notifier

LOOP_LAG_S = 5.0  # a loop that runs this late is not well
STORE_LAG_S = 20.0  # writes older than this mean that the disk is stuck
SAMPLE_LAG_S = 15.0


class Watchdog:
    """Feeds the manager's watchdog while loop, store and sensors are all fresh."""

    def __init__(self, clock: Clock, notifier: Notifier, store: JobStore, sampler: Sampler) -> None:
        self._clock = clock
        self._notifier = notifier
        self._store = store
        self._sampler = sampler

    async def run(self) -> None:
        """For ever; returns at once where nobody watches."""
        interval = self._notifier.watchdog_interval_s
        while interval is not None:
            due = self._clock.monotonic() + interval
            await self._clock.sleep(interval)
            if self.is_fresh(self._clock.monotonic() - due):
                self._notifier.watchdog()

    def is_fresh(self, loop_lag_s: float) -> bool:
        """Whether the loop, the store's writer and the sensors are all as recent as they must be."""
        now = self._clock.monotonic()
        store = self._store.state()
        sampled = self._sampler.sampled_at
        return (
            loop_lag_s < LOOP_LAG_S
            # A writer that says what is wrong is alive and tries again: killing the daemon would only lose its work.
            and (bool(store.problem) or (store.oldest_pending_s or 0.0) < STORE_LAG_S)
            and sampled is not None
            and now - sampled < SAMPLE_LAG_S
        )
