"""The sizes a backend can run at: the rungs of its ladder, and what its starts have taught about them."""

from supervisord.core import ladder
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.runtimes.base import BackendSpec, Runtime


class Scale:
    """Owned by one backend."""

    def __init__(self, spec: BackendSpec, runtime: Runtime) -> None:
        self._spec = spec
        self._runtime = runtime
        self.whole_context: int | None = None  # what the server takes by itself where no context is configured
        self.fitting_context: int | None = None  # what it said would fit when it ran out of memory
        self.refused: frozenset[Shrink] = frozenset()  # ways to be smaller that the server does not know
        self.rungs: tuple[Rung, ...] = ()
        self._choose()

    def footprint_on(self, rung: int) -> Footprint:
        """The memory settings of a rung; 0 is as configured."""
        return ladder.apply(
            self._spec.footprint,
            self.rungs,
            rung,
            trained_context=self.whole_context,
            fitting_context=self.fitting_context,
        )

    def name_of(self, rung: int) -> str:
        """A rung in words."""
        return self.rungs[min(rung, len(self.rungs)) - 1].describe() if rung and self.rungs else "as configured"

    def learn_context(self, tokens: int) -> None:
        """Rungs that scale the context need one: what the server took by itself on rung 0 will do."""
        self.whole_context = tokens
        self._choose()

    def learn_fitting(self, log: tuple[str, ...]) -> None:
        """A start that ran out of memory may have said what would have fitted."""
        tokens = self._runtime.context_hint(log)
        if tokens is not None:
            self.fitting_context = tokens
            self._choose()

    def learn_refused(self, rung: int, log: tuple[str, ...]) -> bool:
        """A start on this rung may have said that it cannot be smaller in that way.

        Then the ladder goes on without it. True where it still has so many rungs: the number means another one now.
        """
        refused = self._runtime.refused(log)
        if not rung or refused is None or all(step.shrink is not refused for step in self.rungs[:rung]):
            return False
        self.refused |= {refused}
        self._choose()
        return len(self.rungs) >= rung

    def remember(self, other: "Scale") -> None:
        """Take over what starts have taught: the description changed in nothing that a start depends on."""
        self.whole_context, self.fitting_context = other.whole_context, other.fitting_context
        self.refused = other.refused
        self._choose()

    def _choose(self) -> None:
        rungs = self._runtime.ladder if self._spec.rungs is None else self._spec.rungs
        if self._spec.vllm.kv_cache_memory is not None:  # vLLM then takes no share of the GPU that could be less
            rungs = tuple(rung for rung in rungs if rung.shrink is not Shrink.GPU_UTILIZATION)
        self.rungs = ladder.useful_rungs(
            self._spec.footprint,
            tuple(rung for rung in rungs if rung.shrink not in self.refused),
            trained_context=self.whole_context,
            fitting_context=self.fitting_context,
        )
