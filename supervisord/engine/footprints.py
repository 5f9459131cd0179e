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
        self._facts: dict[tuple[str, str, str], ModelFacts | None] = {}
        self._digests: dict[tuple[str, int], tuple[BackendSpec, ModelFacts | None, str]] = {}

    async def open(self) -> None:
        """Read what earlier runs have learned."""
        self._learned = {record.key: record for record in await self._store.footprints()}

    async def look_at(self, spec: BackendSpec) -> None:
        """Read what the files of a backend's model say; at each start, since they may have been replaced."""
        self._facts[_model_of(spec)] = await self._files.facts(spec)

    def need(self, spec: BackendSpec, rung: int, footprint: Footprint, *, gpus: Sequence[int], reserve: int) -> Need:
        """What a backend takes on a rung of its ladder. `gpus`: the sizes of its GPUs; `reserve` stays free."""
        learned = self._learned.get(self._key(spec, rung))
        return need(
            spec, footprint, learned=learned, facts=self._facts.get(_model_of(spec)), gpus=gpus, reserve=reserve
        )

    def quantization(self, spec: BackendSpec) -> str | None:
        """What the model's own files say, where its server tells nothing."""
        facts = self._facts.get(_model_of(spec))
        return facts.quantization if facts is not None else None

    def observe(self, generation: Generation) -> None:
        """Keep the peaks and the time to load of a generation, where they tell something new."""
        spec = generation.described
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
        facts = self._facts.get(_model_of(spec))
        known = self._digests.get((spec.name, rung))
        if known is not None and known[0] is spec and known[1] is facts:
            return known[2]
        made = digest(spec, rung, facts.weights if facts is not None else None)
        self._digests[spec.name, rung] = (spec, facts, made)
        return made


def _model_of(spec: BackendSpec) -> tuple[str, str, str]:
    return spec.runtime.value, spec.cwd, spec.model
