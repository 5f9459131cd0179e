"""What decides the footprint of a configured backend, and what it is estimated at."""

import subprocess
import sys
from dataclasses import replace

import pytest

from supervisord.core.footprint import CUDA_CONTEXT, ModelFacts, Need, Source
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.memory import GIB, MIB
from supervisord.core.record import FootprintRecord
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import (
    BackendSpec,
    CommandOptions,
    MemoryNeed,
    RemoteOptions,
    RuntimeKind,
    VllmOptions,
)
from supervisord.runtimes.footprint import digest, estimate, need

SPEC = BackendSpec("left", RuntimeKind.LLAMA_CPP, "/models/m.gguf", ("m",), footprint=Footprint(context=8192))
VLLM = replace(SPEC, runtime=RuntimeKind.VLLM)
FACTS = ModelFacts(
    weights=5 * GIB, layers=32, kv_bytes_per_token=128 * 1024, trained_context=131072, embedding_size=4096,
    vocabulary=128256,
)  # fmt: skip
CARD = 24 * GIB


# --- the digest ------------------------------------------------------------------------------------------------------

DECIDES = {
    "runtime": {"runtime": RuntimeKind.VLLM},
    "binary": {"binary": "/opt/cuda/llama-server"},
    "model": {"model": "/models/other.gguf"},
    "cwd": {"cwd": "/srv"},
    "footprint": {"footprint": Footprint(context=4096)},
    "slots": {"life": LifePolicy(slots=7)},
    "vllm": {"vllm": VllmOptions(enforce_eager=True)},
    "command": {"command": CommandOptions(("serve", "--big"))},
    "args": {"args": ("--mlock",)},
    "env": {"env": {"A": "1"}},
    "gpus": {"gpus": ("0",)},
    "tensor_split": {"tensor_split": (3.0, 1.0)},
    "embeddings": {"embeddings": True},
}
LEAVES = {
    "name": {"name": "right"},
    "models": {"models": ("m", "alias")},
    "priority": {"priority": 5},
    "port": {"port": 8080},
    "life": {"life": LifePolicy(drain_s=1.0)},
    "remote": {"remote": RemoteOptions("https://x/v1", key="secret")},
    "memory": {"memory": MemoryNeed(vram=1)},
    "ttl_s": {"ttl_s": 1.0},
    "probe_interval_s": {"probe_interval_s": 9.0},
    "rungs not reached": {"rungs": (Rung(Shrink.CONTEXT, 0.5),)},
}


@pytest.mark.parametrize("changed", DECIDES)
def test_what_decides_the_footprint_changes_the_digest(changed: str) -> None:
    assert digest(replace(SPEC, **DECIDES[changed]), 0) != digest(SPEC, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", LEAVES)
def test_what_does_not_leaves_it(changed: str) -> None:
    base = replace(SPEC, rungs=(Rung(Shrink.CACHE_Q8),))
    assert digest(replace(base, **LEAVES[changed]), 0) == digest(base, 0)  # type: ignore[arg-type]


def test_rungs_and_the_size_of_the_model_are_a_part_of_it() -> None:
    rungs = (Rung(Shrink.CACHE_Q8), Rung(Shrink.CONTEXT, 0.5))
    other = (Rung(Shrink.CACHE_Q8), Rung(Shrink.CONTEXT, 0.25))
    found = {digest(replace(SPEC, rungs=ladder), rung) for ladder in (rungs, other) for rung in (0, 1, 2)}
    assert len(found) == 4
    assert digest(SPEC, 0, weights=1) != digest(SPEC, 0, weights=2)


def test_the_order_of_the_environment_does_not_matter() -> None:
    one, two = {"A": "1", "B": "2"}, {"B": "2", "A": "1"}
    assert digest(replace(SPEC, env=one), 0) == digest(replace(SPEC, env=two), 0)


def test_it_is_the_same_in_every_run() -> None:
    program = (
        "from supervisord.runtimes.base import *\n"
        "from supervisord.runtimes.footprint import digest\n"
        "print(digest(BackendSpec('x', RuntimeKind.VLLM, 'm', ('m',), env={'B': '1', 'A': '2'}), 1))"
    )
    found = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30).stdout
        for _ in range(2)
    }
    assert found == {digest(BackendSpec("y", RuntimeKind.VLLM, "m", ("n",), env={"A": "2", "B": "1"}), 1) + "\n"}


# --- llama.cpp -------------------------------------------------------------------------------------------------------


def bytes_of(found: Need) -> tuple[int, int]:
    assert found.vram is not None
    assert found.ram is not None
    return found.vram, found.ram


def test_without_a_gpu_all_of_it_is_in_ram() -> None:
    found = estimate(FACTS, SPEC, SPEC.footprint)
    vram, ram = bytes_of(found)
    assert vram == 0
    assert 6 * GIB < ram < 6.5 * GIB
    assert found.load_s == pytest.approx(2 + 5 * GIB / 5e8)
    assert (found.vram_source, found.ram_source) == (Source.ESTIMATED, Source.ESTIMATED)


def test_slots_cache_and_batch_count() -> None:
    def vram(spec: BackendSpec, footprint: Footprint) -> int:
        return bytes_of(estimate(FACTS, spec, footprint, gpus=(CARD,)))[0]

    one = vram(SPEC, SPEC.footprint)
    four = replace(SPEC, life=LifePolicy(slots=4))
    assert vram(four, SPEC.footprint) - one == 3 * GIB
    assert one - vram(SPEC, Footprint(context=8192, cache_type="q8_0")) == GIB * 15 // 32
    assert vram(SPEC, Footprint(context=8192, batch=64)) < one == vram(SPEC, Footprint(context=8192, batch=4096))


def test_without_a_context_the_slots_share_what_the_model_was_trained_for() -> None:
    four = replace(SPEC, life=LifePolicy(slots=4))
    shared = bytes_of(estimate(FACTS, four, Footprint()))[1]
    assert shared == bytes_of(estimate(FACTS, four, Footprint(context=131072 // 4)))[1]
    unsaid = replace(FACTS, trained_context=None)
    assert estimate(unsaid, four, Footprint()) == estimate(unsaid, four, Footprint(context=1024))


def test_a_model_larger_than_the_card_leaves_the_reserve_free() -> None:
    large = replace(FACTS, weights=60 * GIB)
    assert estimate(large, SPEC, Footprint(context=8192), gpus=(CARD, CARD), reserve=2 * GIB).vram == 44 * GIB
    assert estimate(large, SPEC, Footprint(context=8192), gpus=(CARD,), reserve=0).vram == 23 * GIB


def test_a_model_that_cannot_be_read_is_unknown() -> None:
    unknown = (Source.ESTIMATED, Source.UNKNOWN)
    assert estimate(None, SPEC, Footprint()) == Need(0, None, 2.0, *unknown)
    assert estimate(None, SPEC, Footprint(gpu_layers=0), gpus=(CARD,)) == Need(0, None, 2.0, *unknown)
    assert estimate(None, SPEC, Footprint(), gpus=(CARD,)) == Need(None, None, 2.0, *unknown[1:], *unknown[1:])


# --- vLLM ------------------------------------------------------------------------------------------------------------


def test_vllm_takes_its_share_of_each_gpu_whatever_the_model() -> None:
    assert estimate(None, VLLM, Footprint(), gpus=(CARD,)).vram == int(CARD * 0.92)
    assert estimate(FACTS, VLLM, Footprint(gpu_utilization=0.5), gpus=(CARD, CARD)).vram == CARD // 2
    two = replace(VLLM, vllm=VllmOptions(tensor_parallel=2))
    found = estimate(FACTS, two, Footprint(gpu_utilization=0.5), gpus=(CARD, CARD, CARD))
    assert bytes_of(found) == (CARD, int(4.5 * GIB))
    assert found.load_s > 60


def test_vllm_with_a_cache_of_a_given_size() -> None:
    given = replace(VLLM, vllm=VllmOptions(kv_cache_memory=4 * GIB, tensor_parallel=2))
    found = estimate(FACTS, given, Footprint(), gpus=(CARD, CARD))
    assert found.vram == 5 * GIB + 2 * (5 * GIB + CUDA_CONTEXT)
    assert estimate(None, given, Footprint(), gpus=(CARD,)).vram_source is Source.UNKNOWN


@pytest.mark.parametrize(("said", "gib"), [(None, 4), ("1", 1), ("2.5", 2.5), ("0", 4), ("much", 4), ("inf", 4)])
def test_vllm_on_the_cpu(said: str | None, gib: float) -> None:
    spec = VLLM if said is None else replace(VLLM, env={"VLLM_CPU_KVCACHE_SPACE": said})
    assert bytes_of(estimate(FACTS, spec, Footprint())) == (0, int((5 + gib + 2.5) * GIB))


def test_vllm_on_the_cpu_with_an_unknown_model() -> None:
    found = estimate(None, VLLM, Footprint())
    assert (found.vram, found.ram, found.ram_source) == (0, None, Source.UNKNOWN)


# --- the others ------------------------------------------------------------------------------------------------------


def test_of_a_command_nothing_is_known() -> None:
    found = estimate(None, replace(SPEC, runtime=RuntimeKind.COMMAND), Footprint(), gpus=(CARD,))
    assert found == Need(None, None, 30.0, Source.UNKNOWN, Source.UNKNOWN)


def test_a_remote_takes_nothing_here() -> None:
    assert estimate(None, replace(SPEC, runtime=RuntimeKind.REMOTE), Footprint(), gpus=(CARD,)) == Need(0, 0, 0.0)


# --- what it needs ---------------------------------------------------------------------------------------------------


def test_what_is_configured_or_learned_comes_first() -> None:
    learned = FootprintRecord("k", "left", 0.0, vram=3 * GIB, ram=None, load_s=4.0)
    said = replace(SPEC, memory=MemoryNeed(ram=7))
    found = need(said, SPEC.footprint, learned=learned, facts=FACTS, gpus=(CARD,))
    assert found == Need(3 * GIB, 7, 4.0, Source.LEARNED, Source.CONFIGURED)
    assert need(SPEC, SPEC.footprint, facts=FACTS) == estimate(FACTS, SPEC, SPEC.footprint)


def test_a_server_that_fits_itself_never_needs_more_than_there_can_be() -> None:
    learned = FootprintRecord("k", "left", 0.0, vram=23 * GIB, ram=GIB, load_s=4.0)

    def vram(spec: BackendSpec, footprint: Footprint) -> int | None:
        return need(spec, footprint, learned=learned, gpus=(CARD,), reserve=2 * GIB).vram

    assert vram(SPEC, Footprint()) == 22 * GIB
    assert vram(replace(SPEC, memory=MemoryNeed(vram=23 * GIB)), Footprint()) == 23 * GIB
    assert vram(replace(SPEC, memory=MemoryNeed(vram=4 * GIB)), Footprint()) == 22 * GIB
    assert vram(replace(SPEC, memory=MemoryNeed(vram=45 * GIB // 2)), Footprint()) == 45 * GIB // 2


@pytest.mark.parametrize("spec", [SPEC, VLLM], ids=["llama.cpp", "vLLM"])
def test_one_leak_does_not_keep_a_backend_from_ever_starting_again(spec: BackendSpec) -> None:
    leaked = FootprintRecord("k", "left", 0.0, vram=CARD - MIB, ram=GIB, load_s=4.0)
    fixed = Footprint(gpu_layers=99)

    def vram(reserve: int, said: int | None = None) -> int | None:
        told = replace(spec, memory=MemoryNeed(vram=said))
        return need(told, fixed, learned=leaked, gpus=(CARD,), reserve=reserve).vram

    assert [vram(2 * GIB), vram(0)] == [CARD - 2 * GIB, CARD - MIB]
    assert vram(2 * GIB, CARD - GIB) == CARD - GIB


def test_an_estimate_beyond_the_card_is_told_as_it_is() -> None:
    assert need(VLLM, Footprint(gpu_utilization=1.0), facts=FACTS, gpus=(CARD,), reserve=2 * GIB).vram == CARD
