"""Facts from model files: headers written by hand, the bundled model's own, and anything but a header."""

import asyncio
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.adapters.llama_binary import embedded_llama_server
from supervisord.adapters.model_files import LocalModelFiles, gguf, gguf_header, reader
from supervisord.core.footprint import ModelFacts
from supervisord.core.ladder import Footprint
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import BackendSpec, RuntimeKind
from supervisord.runtimes.footprint import estimate

FORMATS = {"u8": (0, "<B"), "u16": (2, "<H"), "u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"),
           "u64": (10, "<Q"), "f64": (12, "<d")}  # fmt: skip


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: str, value: object) -> bytes:
    number, form = FORMATS[kind]
    return struct.pack("<I", number) + struct.pack(form, value)


def string(value: str) -> bytes:
    return struct.pack("<I", 8) + text(value)


def strings(values: list[str]) -> bytes:
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(text(value) for value in values)


def figures(kind: str, values: list[int]) -> bytes:
    number, form = FORMATS[kind]
    return struct.pack("<IIQ", 9, number, len(values)) + b"".join(struct.pack(form, value) for value in values)


def header(values: Mapping[str, bytes], version: int = 3, keys: int | None = None) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", version, 291, len(values) if keys is None else keys)
    return start + b"".join(text(key) + value for key, value in values.items())


LLAMA = {
    "general.architecture": string("llama"),
    "general.name": string("a name " * 100),
    "llama.context_length": scalar("u32", 131072),
    "llama.embedding_length": scalar("u32", 4096),
    "llama.block_count": scalar("u32", 32),
    "llama.attention.head_count": scalar("u32", 32),
    "llama.attention.head_count_kv": scalar("u32", 8),
    "llama.rope.freq_base": scalar("f32", 5e5),
    "tokenizer.ggml.tokens": strings([f"<{number}>" for number in range(1000)]),
    "tokenizer.ggml.scores": figures("i32", [0] * 1000),
    "tokenizer.ggml.add_bos_token": scalar("bool", True),
    "general.file_type": scalar("u32", 15),
}
LLAMA_FACTS = ModelFacts(
    weights=0, layers=32, kv_bytes_per_token=128 * 1024, trained_context=131072, embedding_size=4096, vocabulary=1000,
    quantization="Q4_K_M",
)  # fmt: skip


def spec(model: str | Path, **changes: Any) -> BackendSpec:
    return replace(BackendSpec("b", RuntimeKind.LLAMA_CPP, str(model), ("b",)), **changes)


def written(path: Path, content: bytes, padding: int = 0) -> Path:
    path.write_bytes(content + bytes(padding))
    return path


async def facts_of(tmp_path: Path, values: Mapping[str, bytes]) -> ModelFacts:
    path = written(tmp_path / "m.gguf", header(values))
    found = await LocalModelFiles().facts(spec(path))
    assert found is not None
    return replace(found, weights=0)


def arch(name: str, **values: bytes) -> dict[str, bytes]:
    """A model of four layers, each of which takes 4096 bytes a token."""
    said = {"block_count": scalar("u32", 4), "attention.head_count": scalar("u32", 8),
            "attention.head_count_kv": scalar("u32", 8), "attention.key_length": scalar("u32", 128),
            **{key.replace("__", "."): value for key, value in values.items()}}  # fmt: skip
    return {"general.architecture": string(name), **{f"{name}.{key}": value for key, value in said.items()}}


# --- GGUF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
async def test_a_header_is_read(tmp_path: Path, version: int) -> None:
    path = written(tmp_path / "m.gguf", header(LLAMA, version), padding=100_000)
    found = await LocalModelFiles().facts(spec(path))
    assert found == replace(LLAMA_FACTS, weights=path.stat().st_size)


async def test_a_path_is_seen_from_the_backends_folder(tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", header(LLAMA))
    files = LocalModelFiles()
    assert await files.facts(spec("m.gguf", cwd=str(tmp_path))) is not None
    assert await files.facts(spec("m.gguf")) is None


@pytest.mark.engine
async def test_the_bundled_model_is_read_from_its_packages() -> None:
    found = await LocalModelFiles().facts(spec("embedded"))
    assert found == ModelFacts(
        weights=253_113_024, layers=18, kv_bytes_per_token=18 * 1024, windowed_kv_bytes_per_token=15 * 1024,
        window=512, trained_context=32768, embedding_size=640, vocabulary=262144, quantization="Q4_K_M",
    )  # fmt: skip


@pytest.mark.engine
async def test_the_estimate_is_near_what_a_real_server_takes() -> None:
    """Its peak after a prompt that fills a step, within 40 % above and 10 % below."""
    context, slots = 2048, 4
    model = replace(spec("embedded"), life=LifePolicy(slots=slots))
    estimated = estimate(await LocalModelFiles().facts(model), model, Footprint(context=context)).ram
    assert estimated is not None
    resident = await asyncio.to_thread(peak_of_a_real_server, context, slots)
    assert 0.9 <= estimated / resident <= 1.4


def peak_of_a_real_server(context: int, slots: int) -> int:
    command = embedded_llama_server()
    assert command is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--model", "embedded", "--port", str(port), "--ctx-size", str(context * slots), "--parallel", str(slots)]
    server = subprocess.Popen([*command, *flags], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        prompt = json.dumps({"prompt": "word " * min(600, context - 64), "max_tokens": 4}).encode()
        assert answers(f"http://127.0.0.1:{port}/v1/completions", prompt)
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024
    finally:
        server.kill()
        server.wait()


def answers(url: str, body: bytes | None = None) -> bool:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("there", [0, 3])
async def test_a_bundle_that_is_not_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int) -> None:
    names = tuple(f"not_there_part{number}" for number in range(4))
    for name in names[:there] + (names[there:] if there else ()):
        (tmp_path / name / "data").mkdir(parents=True)
    monkeypatch.setattr(reader, "_BUNDLE", names)
    monkeypatch.syspath_prepend(tmp_path)
    assert await LocalModelFiles().facts(spec("embedded")) is None


async def test_the_parts_of_a_split_file_are_summed(tmp_path: Path) -> None:
    first = written(tmp_path / "m-00001-of-00003.gguf", header(LLAMA))
    written(tmp_path / "m-00002-of-00003.gguf", bytes(1000))
    files = LocalModelFiles()
    assert await files.facts(spec(first)) is None  # one is missing: it would not load either
    last = written(tmp_path / "m-00003-of-00003.gguf", bytes(500))
    expected = replace(LLAMA_FACTS, weights=first.stat().st_size + 1500)
    assert await files.facts(spec(first)) == expected
    assert await files.facts(spec(last)) == expected


@pytest.mark.parametrize("name", ["m-00001-of-99999.gguf", "m-00001-of-00000.gguf", "m-1-of-2.gguf"])
def test_what_is_no_part_stands_alone(name: str) -> None:
    assert gguf.parts(Path(name)) == (Path(name),)


async def test_heads_and_their_widths_are_taken_as_said(tmp_path: Path) -> None:
    found = await facts_of(tmp_path, arch("x"))
    assert found.kv_bytes_per_token == 4 * 2 * 8 * 256
    wide = arch("x", attention__value_length=scalar("u32", 64))
    assert (await facts_of(tmp_path, wide)).kv_bytes_per_token == 4 * 2 * 8 * (128 + 64)
    hybrid = arch("x", attention__head_count_kv=figures("i32", [8, 0, 0, 8, 99]))
    assert (await facts_of(tmp_path, hybrid)).kv_bytes_per_token == 2 * 2 * 8 * 256
    hostile = arch("x", attention__head_count_kv=figures("i32", [-8, 2**31 - 1, 0, 0]))
    assert (await facts_of(tmp_path, hostile)).kv_bytes_per_token == 2 * 4096 * 256
    without = {key: value for key, value in arch("x").items() if "key_length" not in key and "head_count_kv" not in key}
    assert (await facts_of(tmp_path, without)).kv_bytes_per_token is None
    classic = {**without, "x.embedding_length": scalar("u32", 512)}
    assert (await facts_of(tmp_path, classic)).kv_bytes_per_token == 4 * 2 * 8 * 128
    headless = {key: value for key, value in arch("x").items() if "head_count" not in key}
    assert (await facts_of(tmp_path, headless)).kv_bytes_per_token is None


@pytest.mark.parametrize(
    ("name", "said", "windowed"),
    [
        ("x", {}, 0),  # not told how many: all keep their whole context, which is rather too much
        ("gemma2", {}, 2),
        ("x", {"attention__sliding_window_pattern": scalar("u32", 2)}, 2),
        ("gemma2", {"attention__sliding_window_pattern": figures("u8", [1, 1, 1, 0])}, 3),
        ("gemma2", {"attention__sliding_window_pattern": figures("bool", [0, 1])}, 1),
        ("gemma2", {"attention__sliding_window": scalar("u32", 0)}, 0),
    ],
)
async def test_layers_with_a_window_are_told_apart(
    tmp_path: Path, name: str, said: dict[str, bytes], windowed: int
) -> None:
    found = await facts_of(tmp_path, arch(name, **{"attention__sliding_window": scalar("u32", 1024), **said}))
    assert found.kv_bytes_per_token == 4 * 4096
    assert found.windowed_kv_bytes_per_token == windowed * 4096


@pytest.mark.parametrize(
    "value",
    [scalar("u64", 2**63), scalar("i32", -1), scalar("f32", 32.0), scalar("bool", True), string("32"), scalar("u8", 0)],
)
async def test_what_no_model_has_is_not_believed(tmp_path: Path, value: bytes) -> None:
    found = await facts_of(tmp_path, {**LLAMA, "llama.block_count": value, "llama.context_length": value})
    assert (found.layers, found.trained_context, found.kv_bytes_per_token) == (None, None, None)


@pytest.mark.parametrize("value", [scalar("u32", 9999), string("Q4")])
async def test_an_unknown_file_type_is_left_out(tmp_path: Path, value: bytes) -> None:
    assert (await facts_of(tmp_path, {**LLAMA, "general.file_type": value})).quantization is None


HUGE = 2**64 - 1
HOSTILE = {
    "empty": b"",
    "magic only": b"GGUF",
    "another file": b"PK\x03\x04" + bytes(100),
    "version 1": header(LLAMA, version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 1, 1),
    "too many keys": header({}, keys=HUGE),
    "keys that are missing": header(LLAMA, keys=len(LLAMA) + 1),
    "a key of all memory": header({}, keys=1) + struct.pack("<Q", HUGE),
    "a long key": header({}, keys=1) + struct.pack("<Q", 2**20) + bytes(2**20),
    "a text of all memory": header({"general.architecture": struct.pack("<IQ", 8, HUGE)}),
    "a long text that is wanted": header({"general.architecture": string("x" * 257)}),
    "a skipped text of all memory": header({"x": struct.pack("<IQ", 8, HUGE)}),
    "a skipped text past the end": header({"x": struct.pack("<IQ", 8, 10_000), "y": scalar("u8", 1)}),
    "an array of all memory": header({"x": struct.pack("<IIQ", 9, 10, HUGE)}),
    "strings without end": header({"x": struct.pack("<IIQ", 9, 8, HUGE)}),
    "many strings": header({"x": struct.pack("<IIQ", 9, 8, 4_000_000) + bytes(1000)}),
    "arrays in arrays": header({"x": struct.pack("<IIQ", 9, 9, 1) + bytes(100)}),
    "an unknown type": header({"x": struct.pack("<I", 77)}),
    "wanted figures without end": header({"llama.attention.head_count_kv": struct.pack("<IIQ", 9, 4, 2**40)}),
    "a header of a gigabyte": header({"x": struct.pack("<IIQ", 9, 0, 2**30)}),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_is_no_header_is_none_at_once(tmp_path: Path, case: str) -> None:
    path = written(tmp_path / "m.gguf", HOSTILE[case])
    started = time.perf_counter()
    assert await LocalModelFiles(60.0).facts(spec(path)) is None
    assert time.perf_counter() - started < 2


def test_strings_are_counted_over_the_whole_header(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {name: strings(["a"] * 500) for name in ("x", "y")}
    monkeypatch.setattr(gguf_header, "_MOST_STRINGS", 1000)
    assert read(header(words)) is not None
    monkeypatch.setattr(gguf_header, "_MOST_STRINGS", 999)
    assert read(header(words)) is None


class Fussy(io.BytesIO):
    """Fails a test that asks for more than a few MiB at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 <= size <= 4 << 20
        return super().read(size)


def read(raw: bytes) -> gguf_header.Header | None:
    try:
        return gguf_header.read_header(Fussy(raw), gguf._is_wanted)
    except gguf_header.HeaderError:
        return None


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_do_no_harm(raw: bytes, begins_well: bool) -> None:
    read(b"GGUF" + struct.pack("<I", 3) + raw if begins_well else raw)


@given(st.data())
def test_mutated_headers_do_no_harm(data: st.DataObject) -> None:
    raw = bytearray(header(LLAMA))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        width = data.draw(st.sampled_from([1, 4, 8]))
        raw[at : at + width] = data.draw(st.sampled_from([b"\xff" * width, bytes(width), os.urandom(width)]))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    found = read(bytes(raw))
    if found is not None:
        gguf._Model(found).facts(1)


def test_every_prefix_of_a_header_is_refused() -> None:
    raw = header({**LLAMA, "tokenizer.ggml.tokens": strings(["a", "bc"]), "tokenizer.ggml.scores": figures("u8", [1])})
    assert read(raw) is not None
    for end in range(len(raw)):
        assert read(raw[:end]) is None, end


@pytest.mark.parametrize("block", [300, 301, 517, 4096])
def test_blocks_of_any_size_read_the_same(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """What a string or a value is cut by is where the next block begins."""
    whole = read(header(LLAMA))
    assert whole is not None
    monkeypatch.setattr(gguf_header, "_BLOCK", block)
    cut = read(header(LLAMA))
    assert cut is not None
    assert (cut.values, cut.lengths) == (whole.values, whole.lengths)


# --- folders of Hugging Face -----------------------------------------------------------------------------------------

CONFIG = {
    "num_hidden_layers": 28, "num_key_value_heads": 8, "num_attention_heads": 16, "hidden_size": 1024, "head_dim": 128,
    "max_position_embeddings": 40960, "vocab_size": 151936, "torch_dtype": "bfloat16",
}  # fmt: skip
CONFIG_FACTS = ModelFacts(
    weights=3000, layers=28, kv_bytes_per_token=28 * 4 * 8 * 128, trained_context=40960, embedding_size=1024,
    vocabulary=151936, quantization="bfloat16",
)  # fmt: skip


def a_folder(path: Path, config: object, files: Mapping[str, int] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    sizes = {"model-00001-of-00002.safetensors": 2000, "model-00002-of-00002.safetensors": 1000, "tokenizer.json": 9}
    for name, size in (sizes if files is None else files).items():
        (path / name).write_bytes(bytes(size))
    return path


async def folder_facts(path: Path, **changes: Any) -> ModelFacts | None:
    return await LocalModelFiles().facts(spec(path, runtime=RuntimeKind.VLLM, **changes))


async def test_a_folder_is_read(tmp_path: Path) -> None:
    assert await folder_facts(a_folder(tmp_path / "m", CONFIG)) == CONFIG_FACTS


async def test_a_model_that_takes_pictures_too(tmp_path: Path) -> None:
    nested = {"text_config": CONFIG, "vision_config": {"hidden_size": 7}, "dtype": "float16"}
    found = await folder_facts(a_folder(tmp_path / "m", nested))
    assert found == replace(CONFIG_FACTS, quantization="float16")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq 4 bit"),
        ({"quant_method": "fp8"}, "fp8"),
        ({}, None),
        ("odd", "bfloat16"),
    ],
)
async def test_the_quantization_is_told(tmp_path: Path, method: object, words: str | None) -> None:
    found = await folder_facts(a_folder(tmp_path / "m", {**CONFIG, "quantization_config": method}))
    assert found is not None
    assert found.quantization == words


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        ({"model.safetensors": 10, "consolidated.safetensors": 10, "pytorch_model.bin": 10}, 10),
        ({"consolidated.safetensors": 20}, 20),
        ({"pytorch_model.bin": 30, "training_args.pt": 1}, 30),
    ],
)
async def test_the_same_weights_in_two_kinds_of_files_count_once(
    tmp_path: Path, files: Mapping[str, int], weights: int
) -> None:
    found = await folder_facts(a_folder(tmp_path / "m", CONFIG, files))
    assert found is not None
    assert found.weights == weights


@pytest.mark.parametrize(
    ("changes", "of_a_layer"),
    [
        ({"head_dim": None}, 4 * 8 * 64),
        ({"num_key_value_heads": None}, 4 * 16 * 128),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 2 * 576),
        ({"num_attention_heads": None, "head_dim": None}, None),
        ({"num_hidden_layers": "28"}, None),
        ({"num_hidden_layers": 2**40}, None),
        ({"num_hidden_layers": True}, None),
    ],
)
async def test_the_cache_is_as_wide_as_said(
    tmp_path: Path, changes: Mapping[str, object], of_a_layer: int | None
) -> None:
    found = await folder_facts(a_folder(tmp_path / "m", {**CONFIG, **changes}))
    assert found is not None
    assert found.kv_bytes_per_token == (None if of_a_layer is None else 28 * of_a_layer)


async def test_an_old_model_with_other_words(tmp_path: Path) -> None:
    config = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
    found = await folder_facts(a_folder(tmp_path / "m", config))
    assert found == ModelFacts(3000, 12, 12 * 4 * 768, trained_context=1024, embedding_size=768, vocabulary=50257)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * 2_000_000, b'{"a": 1'])
async def test_a_configuration_that_cannot_be_read(tmp_path: Path, raw: bytes) -> None:
    a_folder(tmp_path / "m", CONFIG)
    (tmp_path / "m" / "config.json").write_bytes(raw)
    assert await folder_facts(tmp_path / "m") is None


async def test_a_folder_without_weights_or_with_too_much_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await folder_facts(a_folder(tmp_path / "none", CONFIG, {})) is None
    monkeypatch.setattr("supervisord.adapters.model_files.hugging_face._MOST_FILES", 3)
    assert await folder_facts(a_folder(tmp_path / "m", CONFIG)) is None


async def test_a_model_of_the_hub_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--owner--name"
    a_folder(cached / "snapshots" / commit, CONFIG)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for said in ({"HF_HOME": str(tmp_path)}, {"HF_HUB_CACHE": str(tmp_path / "hub")}):
        found = await folder_facts(Path("owner/name"), env=said)
        assert found == CONFIG_FACTS
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    (tmp_path / "huggingface").symlink_to(tmp_path)
    assert await folder_facts(Path("owner/name")) == CONFIG_FACTS
    assert await folder_facts(Path("owner/other")) is None
    (cached / "refs" / "main").write_text("../../../../etc")
    assert await folder_facts(Path("owner/name")) is None


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", "no such file", "/proc/self/mem", "/dev/null", "a\0b", "a/b/c"])
async def test_where_there_is_nothing_to_read_nothing_is_known(model: str) -> None:
    assert await LocalModelFiles().facts(spec(model)) is None


async def test_of_a_remote_nothing_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", header(LLAMA))
    assert await LocalModelFiles().facts(spec(path, runtime=RuntimeKind.REMOTE)) is None


async def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.gguf", header(LLAMA))
    files = LocalModelFiles()
    first = await files.facts(spec(path))
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "facts", lambda _: pytest.fail("read again"))
        assert await files.facts(spec(path)) == first
    written(path, header({**LLAMA, "llama.block_count": scalar("u32", 16)}), padding=1)
    again = await files.facts(spec(path))
    assert again is not None
    assert again.layers == 16


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MOST_KNOWN", 2)
    files = LocalModelFiles()
    for number in range(4):
        assert await files.facts(spec(written(tmp_path / f"{number}.gguf", header(LLAMA)))) is not None
    assert len(files._known) == 2


async def test_a_disk_that_does_not_answer_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few questions wait for it, each up to the deadline; further ones are not even asked until it answers."""
    path = written(tmp_path / "m.gguf", header(LLAMA))
    answers = threading.Event()
    asked: list[object] = []

    def facts(of: object) -> ModelFacts:
        asked.append(of)
        answers.wait(30)
        return LLAMA_FACTS

    monkeypatch.setattr(gguf, "facts", facts)
    files = LocalModelFiles(0.02)
    assert [await files.facts(spec(path)) for _ in range(6)] == [None] * 6
    assert len(asked) == 4
    answers.set()
    async with asyncio.timeout(10):
        while files._reading:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    assert await files.facts(spec(path)) == LLAMA_FACTS


def test_an_answer_after_the_end_of_the_loop_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.gguf", header(LLAMA))
    answers = threading.Event()
    monkeypatch.setattr(gguf, "facts", lambda _: answers.wait(30))
    asyncio.run(LocalModelFiles(0.01).facts(spec(path)))
    (waiting,) = [one for one in threading.enumerate() if one.name == "model-files"]
    answers.set()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_large_vocabulary_is_read_in_good_time() -> None:
    """As large as the largest there are, of strings in random lengths."""
    words = random.Random(1)
    tokens = strings(["x" * words.randrange(30) for _ in range(262144)])
    raw = header({**LLAMA, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens})
    started = time.perf_counter()
    found = read(raw)
    assert time.perf_counter() - started < 3
    assert found is not None
    assert found.lengths["tokenizer.ggml.tokens"] == 262144
