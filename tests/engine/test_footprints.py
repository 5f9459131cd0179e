"""What a backend takes: learned from its runs, and kept where it is news."""

from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.errors import StoreUnavailableError
from supervisord.core.footprint import ModelFacts, Need, Source
from supervisord.core.ladder import Footprint
from supervisord.core.memory import GIB
from supervisord.core.record import FootprintRecord
from supervisord.core.state import Phase
from supervisord.engine.footprints import Footprints
from supervisord.engine.generation import Generation
from supervisord.runtimes.base import Address, BackendSpec, MemoryNeed
from supervisord.runtimes.footprint import digest
from tests.engine.rig import llama, rig
from tests.fakes.clock import fake_time
from tests.fakes.engine import Machine
from tests.fakes.store import MemoryStore

CARD = (24 * GIB,)
SPEC = replace(llama("a"), memory=MemoryNeed(), footprint=Footprint(gpu_layers=99))
FACTS = ModelFacts(4 * GIB, layers=32, quantization="Q4_K_M")


class Writes(MemoryStore):
    """Counts what is written, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[FootprintRecord] = []
        self.broken = False

    def put_footprint(self, footprint: FootprintRecord) -> None:
        if self.broken:
            raise StoreUnavailableError("the disk is full")
        self.written.append(footprint)
        super().put_footprint(footprint)


@pytest.fixture
async def store() -> Writes:
    store = Writes()
    await store.open()
    return store


async def footprints(store: Writes, facts: ModelFacts | None = None) -> Footprints:
    with fake_time() as clock:
        machine = Machine(clock)
    if facts is not None:
        machine.models[SPEC.model] = facts
    made = Footprints(store, machine, clock)
    await made.open()
    await made.look_at(SPEC)
    return made


def need(known: Footprints, spec: BackendSpec = SPEC, rung: int = 0) -> Need:
    return known.need(spec, rung, spec.footprint, gpus=CARD, reserve=GIB)


def a_run(
    vram: float | None = 6.0,
    ram: float | None = 1.0,
    load_s: float | None = 8.0,
    rung: int = 0,
    spec: BackendSpec = SPEC,
) -> Generation:
    run = Generation(1, rung, Footprint(), Address("127.0.0.1", 1), spec)
    run.peak_vram = None if vram is None else int(vram * GIB)
    run.peak_ram = None if ram is None else int(ram * GIB)
    run.loaded_in = load_s
    return run


async def test_what_was_learned_counts_more_than_what_is_estimated(store: Writes) -> None:
    known = await footprints(store, FACTS)
    before = need(known)
    assert (before.vram_source, before.ram_source) == (Source.ESTIMATED, Source.ESTIMATED)
    known.observe(a_run(vram=6.5))
    after = need(known)
    assert (after.vram, after.vram_source) == (int(6.5 * GIB), Source.LEARNED)
    assert (after.ram, after.ram_source, after.load_s) == (GIB, Source.LEARNED, 8.0)


async def test_what_is_configured_counts_more_than_a_run_that_took_less(store: Writes) -> None:
    spec = replace(SPEC, memory=MemoryNeed(vram=8 * GIB))
    known = await footprints(store, FACTS)
    known.observe(a_run(vram=6.5, spec=spec))
    found = need(known, spec)
    assert (found.vram, found.vram_source) == (8 * GIB, Source.CONFIGURED)
    assert found.ram_source is Source.LEARNED


async def test_what_earlier_lives_of_the_daemon_learned_is_known(store: Writes) -> None:
    (await footprints(store)).observe(a_run(vram=7))
    assert need(await footprints(store)).vram == 7 * GIB


async def test_each_rung_and_each_configuration_is_known_by_itself(store: Writes) -> None:
    known = await footprints(store)
    known.observe(a_run(vram=7))
    known.observe(a_run(vram=5, rung=1))
    assert (need(known).vram, need(known, rung=1).vram) == (7 * GIB, 5 * GIB)
    assert need(known, rung=2).vram_source is Source.UNKNOWN
    assert need(known, replace(SPEC, args=("--other",))).vram_source is Source.UNKNOWN
    assert need(known, replace(SPEC, priority=9)).vram == 7 * GIB


async def test_only_news_is_written(store: Writes) -> None:
    known = await footprints(store)
    known.observe(a_run(vram=6, load_s=8))
    for _ in range(10):
        known.observe(a_run(vram=6, load_s=8))
    known.observe(a_run(vram=5, load_s=8.5))
    assert len(store.written) == 1
    known.observe(a_run(vram=7, load_s=8))
    assert [record.vram for record in store.written] == [6 * GIB, 7 * GIB]


async def test_a_run_that_was_not_measured_teaches_nothing(store: Writes) -> None:
    known = await footprints(store, FACTS)
    known.observe(a_run(None, None, None))
    assert not store.written
    assert need(known).vram_source is Source.ESTIMATED


async def test_trouble_with_the_store_costs_only_the_record(store: Writes) -> None:
    known = await footprints(store)
    store.broken = True
    known.observe(a_run(vram=6))
    assert need(known).vram == 6 * GIB
    store.broken = False
    known.observe(a_run(vram=6))
    assert not store.written, "known already: it is written with the next news"
    known.observe(a_run(vram=8))
    assert [record.vram for record in store.written] == [8 * GIB]


async def test_another_model_in_the_same_place_is_not_taken_for_the_old_one(store: Writes) -> None:
    known = await footprints(store, FACTS)
    known.observe(a_run(vram=6))
    known._files.models[SPEC.model] = replace(FACTS, weights=9 * GIB)  # type: ignore[attr-defined]
    assert need(known).vram_source is Source.LEARNED, "it was not looked at again"
    await known.look_at(SPEC)
    assert need(known).vram_source is Source.ESTIMATED
    assert store.written[0].key == digest(SPEC, 0, FACTS.weights)


async def test_models_tell_their_quantization_themselves(store: Writes) -> None:
    assert (await footprints(store, FACTS)).quantization(SPEC) == "Q4_K_M"
    assert (await footprints(store)).quantization(SPEC) is None


# --- in the engine ---------------------------------------------------------------------------------------------------


async def test_what_a_server_takes_while_it_serves_is_learned() -> None:
    async with rig(llama("a", None, memory=MemoryNeed(), footprint=Footprint(gpu_layers=99))) as it:
        it.processes.on_start = lambda process: process.holds(5 * GIB)
        await it.up("a")
        await it.clock.advance(3)
        assert it.supervisor.placer.need_of("a").vram == 5 * GIB
        it.processes.of("a").holds(6 * GIB)  # its cache fills with the work
        await it.clock.advance(3)
        found = it.supervisor.placer.need_of("a")
        assert (found.vram, found.vram_source) == (6 * GIB, Source.LEARNED)


async def test_a_start_that_ran_out_of_memory_teaches_nothing_too_large_for_the_next_rung() -> None:
    spec = llama("a", None, memory=MemoryNeed(), footprint=Footprint(gpu_layers=99, context=8192))
    async with rig(spec) as it:
        it.processes.on_start = lambda process: process.holds(20 * GIB)
        await it.up("a")
        await it.clock.advance(3)
        it.processes.on_start = lambda process: None
        it.processes.of("a").says("CUDA error: out of memory")
        it.processes.of("a").ends(1)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        assert it["a"].state.rung == 1
        assert it.supervisor.placer.need_of("a").vram_source is not Source.LEARNED


async def test_what_a_server_that_fits_itself_once_took_of_a_large_card_fits_again() -> None:
    """What stays free is a share of the card there, and more than the configured reserve."""
    async with rig(llama("a", None, memory=MemoryNeed())) as it:
        it.machine.cards[0].total = 80 * GIB
        it.processes.on_start = lambda process: process.holds(79 * GIB)
        await it.clock.advance(3)
        await it.up("a")
        await it.clock.advance(3)
        it["a"].post(life.RestartAsked("by hand"))
        await it.pass_until(lambda: it["a"].state.generation == 2 and it.phase("a") is Phase.READY)
