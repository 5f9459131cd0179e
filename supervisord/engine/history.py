"""The memory of the last minutes: what incidents show of the time around them."""

from collections import deque
from collections.abc import Mapping

from supervisord.core.incident import SAMPLES_BEFORE_S
from supervisord.core.placement import HOST
from supervisord.engine.sampler import Sampler
from supervisord.ports import Clock

SHORTEST_STEP_S = 0.5  # under pressure memory is sampled up to ten times a second: a fifth of that tells as much
MOST = int(2 * SAMPLES_BEFORE_S / SHORTEST_STEP_S)

Sample = Mapping[str, object]


class History:
    """Bounded in time and number. Times are seconds since the epoch, as people read them."""

    def __init__(self, sampler: Sampler, clock: Clock) -> None:
        self._sampler = sampler
        self._clock = clock
        self._kept: deque[tuple[float, Sample]] = deque(maxlen=MOST)

    def note(self) -> None:
        """Keep the latest sample."""
        now = self._clock.monotonic()
        if self._kept and now - self._kept[-1][0] < SHORTEST_STEP_S:
            return
        self._kept.append((now, self._sample()))

    def since(self, moment: float) -> tuple[Sample, ...]:
        """The samples from a monotonic moment on, oldest first."""
        return tuple(sample for at, sample in self._kept if at >= moment)

    def _sample(self) -> Sample:
        sampler = self._sampler
        host = sampler.host
        return {
            "at": round(self._clock.wall(), 3),
            "host": None
            if host is None
            else {
                "pressure": sampler.level(HOST).label,
                "available_bytes": host.available,
                "swap_used_bytes": host.swap_used,
                "swap_in_bytes_per_s": host.swap_in_rate,
                "swap_out_bytes_per_s": host.swap_out_rate,
                "stall_full_percent": host.stall_full,
            },
            "gpus": [
                {
                    "gpu": f"gpu{gpu.index}",
                    "state": gpu.state.value,
                    "pressure": sampler.level(gpu.uuid).label,
                    "free_bytes": gpu.free,
                    "used_bytes": gpu.used,
                    "utilization_ratio": gpu.utilization,
                }
                for gpu in sampler.gpus.gpus
            ],
            "backends": {name: dict(held) for name, held in sampler.holdings.items() if held},
        }
