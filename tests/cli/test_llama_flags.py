"""The command line of the embedded engine, without the engine."""

from pathlib import Path

import pytest

from supervisord.cli.llama_flags import FLAGS, FlagError, Show, parse, usage
from supervisord.cli.llama_values import Member

_MODE = "llama_load_mode"


def _params(*argv: str) -> dict[str, object]:
    return dict(parse(["-m", "x.gguf", *argv]).params)


@pytest.mark.parametrize(
    ("argv", "target", "value"),
    [
        ((), "port", 8080),
        (("--port", "0"), "port", 0),
        (("--host", "::1"), "hostnames", ("::1",)),
        (("-c", "4096"), "n_ctx", 4096),
        (("--ctx-size", "1", "--ctx-size", "2"), "n_ctx", 2),
        (("-np", "2"), "n_parallel", 2),
        (("--parallel", "3"), "n_parallel", 3),
        (("-ngl", "auto"), "n_gpu_layers", -1),
        (("--n-gpu-layers", "all"), "n_gpu_layers", -2),
        (("--gpu-layers", "7"), "n_gpu_layers", 7),
        (("-fa", "on"), "flash_attn_type", Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_ENABLED")),
        (("-ctk", "q8_0"), "cache_type_k", Member("ggml_type", "GGML_TYPE_Q8_0")),
        (("--cache-type-v", "iq4_nl"), "cache_type_v", Member("ggml_type", "GGML_TYPE_IQ4_NL")),
        (("-b", "512"), "n_batch", 512),
        (("-ub", "64"), "n_ubatch", 64),
        (("-t", "-1"), "cpuparams.n_threads", -1),
        (("-tb", "2"), "cpuparams_batch.n_threads", 2),
        (("--metrics",), "endpoint_metrics", True),
        (("--no-slots",), "endpoint_slots", False),
        (("--props",), "endpoint_props", True),
        (("--offline",), "offline", True),
        (("--no-ui",), "ui", False),
        (("--no-webui",), "ui", False),
        (("--alias", "a, b,"), "model_alias", ("a", "b")),
        (("--api-key", "k1,k2", "--api-key", "k3"), "api_keys", ("k1", "k2", "k3")),
        (("--cache-ram", "0"), "cache_ram_mib", 0),
        (("-fit", "off"), "fit_params", False),
        (("-fitt", "1024,512"), "fit_params_target", (1024 * 1024 * 1024, 512 * 1024 * 1024)),
        (("--embeddings",), "embedding", True),
        (("--pooling", "mean"), "pooling_type", Member("llama_pooling_type", "LLAMA_POOLING_TYPE_MEAN")),
        (("--chat-template", "chatml"), "chat_template", "chatml"),
        (("--no-jinja",), "use_jinja", False),
        (("--no-warmup",), "warmup", False),
        (("-n", "-1"), "n_predict", -1),
        (("--seed", "-1"), "sampling.seed", 0xFFFFFFFF),
        (("--seed", "42"), "sampling.seed", 42),
        (("--timeout", "60"), "timeout_write", 60),
        (("-r", r"\nQ:", "-r", r"a\\b"), "antiprompt", ("\nQ:", "a\\b")),
        (("--mlock",), "load_mode", Member(_MODE, "LLAMA_LOAD_MODE_MMAP_MLOCK")),
        (("--no-mmap",), "load_mode", Member(_MODE, "LLAMA_LOAD_MODE_NONE")),
        (("--no-mmap", "--mlock"), "load_mode", Member(_MODE, "LLAMA_LOAD_MODE_MLOCK")),
        (("--log-disable",), "verbosity", -1),
    ],
)
def test_a_flag_sets_what_llama_server_would_set(argv: tuple[str, ...], target: str, value: object) -> None:
    assert _params(*argv)[target] == value


def test_what_was_not_asked_for_is_left_to_the_engine() -> None:
    assert _params() == {"port": 8080}
    assert _params("--log-colors", "on", "--log-prefix", "--no-log-timestamps") == {"port": 8080}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-m", "x", "--foo"], "invalid argument: --foo"),
        (["-m", "x", "stray"], "invalid argument: stray"),
        (["-m", "x", "-hf", "some/repo"], "invalid argument: -hf"),
        (["-m", "x", "-c"], 'error while handling argument "-c": expected value for argument'),
        (["-m", "x", "-c", "4k"], 'error while handling argument "-c": "4k" is not a whole number'),
        (["-m", "x", "-c", "-1"], 'error while handling argument "-c": -1 is not within 0 to 2147483647'),
        (["-m", "x", "--port", "65536"], 'error while handling argument "--port": 65536 is not within 0 to 65535'),
        (["-m", "x", "-fa", "1"], 'error while handling argument "-fa": "1" is none of on, off, auto'),
        (["-m", "x", "-ngl", "some"], 'error while handling argument "-ngl": "some" is not a whole number'),
        (["--metrics"], "no model: say -m FILE, or -m embedded for the bundled one"),
    ],
)
def test_a_mistake_is_named(argv: list[str], words: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(argv)
    assert str(caught.value) == words


def test_files_are_read_while_parsing(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}\n", encoding="utf-8")
    keys = tmp_path / "keys"
    keys.write_text("one\n\ntwo\n", encoding="utf-8")
    params = _params("--chat-template-file", str(template), "--api-key-file", str(keys))
    assert params["chat_template"] == "{{ messages }}\n"
    assert params["api_keys"] == ("one", "two")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_template_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FlagError, match=r"failed to open file '.*t\.jinja'"):
        _params("--chat-template-file", str(path))


@pytest.mark.parametrize(
    ("argv", "show"), [(["--help"], Show.HELP), (["-h"], Show.HELP), (["-c", "1", "--version"], Show.VERSION)]
)
def test_help_and_version_need_no_model(argv: list[str], show: Show) -> None:
    assert parse(argv).show is show


def test_no_name_stands_for_two_flags_and_help_lists_all() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    listed = usage().replace(",", " ").split()
    assert set(names) <= set(listed)
    assert max(map(len, usage().splitlines())) <= 120
