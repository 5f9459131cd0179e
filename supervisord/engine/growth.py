"""Which backends take more and more: under pressure they get no new work."""

from collections import deque
from collections.abc import Mapping

WINDOW_S = 60.0
STEP_S = 2.0  # between two figures that are kept
WORTH = 64 * 1024 * 1024  # bytes: less is noise of allocators, and of the prompt cache of a server that has settled


class Growth:
    """What each backend held over the last minute, by pool."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], deque[tuple[float, int]]] = {}

    def note(self, holdings: Mapping[str, Mapping[str, int]], now: float) -> None:
        """Keep what a sample says; whoever is not in it is forgotten."""
        seen = {(name, pool): held for name, pools in holdings.items() for pool, held in pools.items()}
        for key in self._kept.keys() - seen.keys():
            del self._kept[key]
        for key, held in seen.items():
            kept = self._kept.setdefault(key, deque(maxlen=int(WINDOW_S / STEP_S)))
            if not kept or now - kept[-1][0] >= STEP_S:
                kept.append((now, held))

    def grows(self, name: str, pool: str, held: int, now: float) -> bool:
        """Whether a backend holds markedly more in a pool than at any time in the last minute."""
        lately = [before for at, before in self._kept.get((name, pool), ()) if now - at <= WINDOW_S]
        return bool(lately) and held - min(lately) >= WORTH
