"""What each configuration of a backend takes: configured, else learned from earlier runs, else estimated."""

from collections.abc import Sequence

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.footprint import ModelFacts, Need, merged
from supervisord.core.ladder import Footprint
from supervisord.core.record import FootprintRecord
from supervisord.engine.generation import Generation
from supervisord.ports import Clock, JobStore, ModelFiles
from supervisord.runtimes.base import BackendSpec
from supervisord.runtimes.footprint import digest, need


class Footprints:
    """The only writer of what is learned. Nothing here waits for the disk once it is open."""

    def __init__(self, store: JobStore, files: ModelFiles, clock: Clock) -> None:
        self._store = store
        self._files = files
        self._clock = clock
        self._learned: dict[str, FootprintRecord] = {}
        self._facts: dict[str, ModelFacts | None] = {}  # by the path of the model
        self._digests: dict[tuple[str, int], tuple[BackendSpec, str]] = {}

    async def open(self) -> None:
        """Read what earlier runs have learned."""
        self._learned = {record.key: record for record in await self._store.footprints()}

    async def look_at(self, spec: BackendSpec) -> None:
        """Read the files of a backend's model, once for each model."""
        if spec.model not in self._facts:
            self._facts[spec.model] = await self._files.facts(spec)

    def need(self, spec: BackendSpec, rung: int, footprint: Footprint, *, gpus: Sequence[int], reserve: int) -> Need:
        """What a backend takes on a rung of its ladder. `gpus`: the sizes of its GPUs; `reserve` stays free."""
        learned = self._learned.get(self._key(spec, rung))
        return need(spec, footprint, learned=learned, facts=self._facts.get(spec.model), gpus=gpus, reserve=reserve)

    def quantization(self, spec: BackendSpec) -> str | None:
        """What the model's own files say, where its server tells nothing."""
        facts = self._facts.get(spec.model)
        return facts.quantization if facts is not None else None

    def observe(self, spec: BackendSpec, generation: Generation) -> None:
        """Keep the peaks and the time to load of a generation, where they tell something new."""
        key = self._key(spec, generation.rung)
        seen = FootprintRecord(
            key,
            spec.name,
            self._clock.wall(),
            vram=generation.peak_vram,
            ram=generation.peak_ram,
            load_s=generation.loaded_in,
        )
        found = merged(self._learned.get(key), seen)
        if found is None:
            return
        self._learned[key] = found
        try:
            self._store.put_footprint(found)
        except StoreUnavailableError:
            return  # it is known for as long as this daemon lives; the store tells of its own trouble

    def _key(self, spec: BackendSpec, rung: int) -> str:
        """A digest is worth keeping: it is asked for with every plan."""
        known = self._digests.get((spec.name, rung))
        if known is not None and known[0] is spec:
            return known[1]
        facts = self._facts.get(spec.model)
        made = digest(spec, rung, facts.weights if facts is not None else None)
        self._digests[spec.name, rung] = (spec, made)
        return made
