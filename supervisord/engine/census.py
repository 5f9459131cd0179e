"""Every backend as placement sees it: what it takes, what it holds, and who waits for it."""

from collections.abc import Mapping
from dataclasses import replace

from supervisord.core.footprint import Need
from supervisord.core.placement import HOST, Standing, Tenant
from supervisord.core.state import Phase, Want
from supervisord.engine.backend import Backend
from supervisord.engine.footprints import Footprints
from supervisord.engine.outlook import Outlook
from supervisord.engine.sampler import Sampler
from supervisord.engine.wishes import Wishes
from supervisord.runtimes.base import BackendSpec

_STANDING: Mapping[Phase, Standing] = {
    Phase.STOPPED: Standing.AWAY,
    Phase.BACKOFF: Standing.AWAY,
    Phase.PARKED: Standing.AWAY,
    Phase.STARTING: Standing.STARTING,
    Phase.LOADING: Standing.STARTING,
    Phase.READY: Standing.RESIDENT,
    Phase.SUSPECT: Standing.RESIDENT,
    Phase.DRAINING: Standing.LEAVING,
    Phase.STOPPING: Standing.LEAVING,
    Phase.UNKILLABLE: Standing.LEAVING,
}


class Census:
    """Counts anew each time it is asked."""

    def __init__(self, wishes: Wishes, sampler: Sampler, outlook: Outlook, footprints: Footprints) -> None:
        self._wishes = wishes
        self._sampler = sampler
        self._outlook = outlook
        self._footprints = footprints
        self.backends: Mapping[str, Backend] = {}
        self.closed_since: Mapping[str, float] = {}  # by the plans so far

    def tenants(self) -> list[Tenant]:
        """Every backend that takes memory here, as it is at this moment."""
        return [self._tenant(b) for b in self.backends.values() if b.runtime.has_process]

    def _tenant(self, backend: Backend) -> Tenant:
        name, state, spec = backend.name, backend.state, backend.spec
        standing = self.standing_of(backend)
        gpus = self._sampler.gpus_of(spec)
        need = self.need_of(name)
        expects = self._expects(spec, need)
        waiting = self._outlook.waiting_for(name)
        return Tenant(
            name=name,
            standing=standing,
            expects=expects,
            holds=self._holds(backend, standing, expects),
            turn=frozenset(gpus or (HOST,)),
            in_flight=state.in_flight,
            queued=waiting.queued,
            due=waiting.due,
            rank=waiting.rank,
            rank_since=waiting.rank_since,
            lasting=state.want is Want.UP,
            insisted=name in self._wishes.insisted,
            modest=name in self._wishes.modest and waiting.others_serve,
            pinned=spec.pinned,
            priority=spec.priority,
            idle_since=max(backend.last_used, state.ready_since or 0.0),
            ready_since=state.ready_since or 0.0,
            load_s=need.load_s,
            max_wait_s=spec.max_wait_s,
            min_residence_s=spec.min_residence_s,
            ttl_s=spec.ttl_s,
            closed_since=self.closed_since.get(name),
        )

    def expected_on(self, name: str, rung: int) -> Mapping[str, int]:
        """Bytes by pool that a backend would take on a rung of its ladder."""
        return self._expects(self.backends[name].spec, self._need_on(name, rung))

    def _expects(self, spec: BackendSpec, need: Need) -> dict[str, int]:
        expects = _spread(need.vram, self._sampler.gpus_of(spec), spec.tensor_split)
        if need.ram:
            expects[HOST] = need.ram
        return expects

    def standing_of(self, backend: Backend) -> Standing:
        """How a backend stands towards its place."""
        standing = _STANDING[backend.state.phase]
        if standing is not Standing.STARTING:
            return standing
        if self._wishes.waits(backend.name):
            return Standing.WAITING
        return standing if backend.name in self._wishes.admitted else Standing.AWAY  # it has not asked yet

    def _holds(self, backend: Backend, standing: Standing, expects: Mapping[str, int]) -> Mapping[str, int]:
        if standing in {Standing.AWAY, Standing.WAITING}:
            return {}
        held = dict(self._sampler.holdings.get(backend.name, {}))
        if standing is Standing.RESIDENT and self._sampler.began_at > (backend.state.ready_since or 0.0):
            # A driver that lists no process of ours (containers, WSL) still counts their memory as used.
            for pool, expected in expects.items():
                if pool != HOST and not held.get(pool):
                    held[pool] = expected
        return held

    def need_of(self, name: str) -> Need:
        """What a backend takes on the rung it is on."""
        return self._need_on(name, self.backends[name].state.rung)

    def _need_on(self, name: str, rung: int) -> Need:
        backend = self.backends[name]
        gpus = self._sampler.gpus_of(backend.spec)
        found = self._footprints.need(
            backend.spec,
            rung,
            backend.footprint_on(rung),
            gpus=self._sampler.totals(gpus),
            reserve=self._sampler.vram_reserve,
        )
        if gpus or not found.vram:
            return found
        # Without a GPU everything is in the host's memory.
        return replace(found, vram=None, ram=found.ram or found.vram)


def _spread(need: int | None, gpus: tuple[str, ...], split: tuple[float, ...]) -> dict[str, int]:
    """A need over several GPUs: by the configured split, else evenly."""
    if not need or not gpus:
        return {}
    shares = split if len(split) == len(gpus) else (1.0,) * len(gpus)
    whole = sum(shares)
    return {gpu: int(need * share / whole) for gpu, share in zip(gpus, shares, strict=True)}
