"""Facts from a model's folder as Hugging Face lays it out: config.json beside the files of its weights."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from supervisord.core.footprint import ModelFacts

_LONGEST_CONFIG: Final = 1024 * 1024  # they have a few KiB
_MOST_FILES: Final = 4096
_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# Several kinds in one folder are the same weights more than once; loaders take the first kind there is.
_KINDS: Final = ("model*.safetensors", "*.safetensors", "*.bin", "*.pt", "*.pth")
_MOST_OF: Final = 2**31


def folder(model: str, cwd: str, env: Mapping[str, str]) -> Path | None:
    """Where the model is: the folder itself, or the snapshot of a hub's model in the cache; None: not here.

    Raises OSError.
    """
    if Path(cwd, model).is_dir():
        return Path(cwd, model)
    if not _HUB_NAME.fullmatch(model):
        return None
    cached = _cache(env) / f"models--{model.replace('/', '--')}"
    with (cached / "refs" / "main").open(encoding="ascii") as file:
        commit = file.read(41).strip()
    return cached / "snapshots" / commit if _COMMIT.fullmatch(commit) else None


def _cache(env: Mapping[str, str]) -> Path:
    """As huggingface_hub finds it."""
    said = {**os.environ, **env}
    home = said.get("HF_HOME") or Path(said.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(said.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def facts(place: Path) -> ModelFacts | None:
    """What the model in the folder `place` says of itself; None: it is none. Raises OSError."""
    config = _read(place / "config.json")
    weights = _weights(place)
    if config is None or not weights:
        return None
    nested = config.get("text_config")  # of models that take more than text
    text = cast("Mapping[str, Any]", nested) if isinstance(nested, dict) else config
    layers = _whole(text, "num_hidden_layers", "n_layer")
    per_layer = _kv_of_a_layer(text)
    return ModelFacts(
        weights=weights,
        layers=layers,
        kv_bytes_per_token=layers * per_layer if layers and per_layer else None,
        trained_context=_whole(text, "max_position_embeddings", "n_positions"),
        embedding_size=_whole(text, "hidden_size", "n_embd"),
        vocabulary=_whole(text, "vocab_size") or _whole(config, "vocab_size"),
        quantization=_quantization(config, text),
    )


def _read(path: Path) -> Mapping[str, Any] | None:
    with path.open("rb") as file:
        raw = file.read(_LONGEST_CONFIG + 1)
    try:
        found = json.loads(raw) if len(raw) <= _LONGEST_CONFIG else None
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else None


def _weights(place: Path) -> int:
    """Bytes. Links are followed: in the hub's cache every file is one."""
    names = []
    with os.scandir(place) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > _MOST_FILES:
                return 0
    for kind in _KINDS:
        found = [place / name for name in names if Path(name).match(kind)]
        if found:
            return sum(path.stat().st_size for path in found)
    return 0


def _kv_of_a_layer(config: Mapping[str, Any]) -> int | None:
    """Bytes of K and V that a token takes in one layer, with 16-bit elements."""
    compressed = _whole(config, "kv_lora_rank")
    if compressed is not None:  # multi-head latent attention keeps one vector for all heads, and their rotary part
        return 2 * (compressed + (_whole(config, "qk_rope_head_dim") or 0))
    heads = _whole(config, "num_attention_heads", "n_head")
    width = _whole(config, "hidden_size", "n_embd")
    of_a_head = _whole(config, "head_dim") or (width // heads if width and heads else None)
    shared = _whole(config, "num_key_value_heads") or heads
    return 2 * 2 * shared * of_a_head if shared and of_a_head else None


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> str | None:
    method = config.get("quantization_config")
    if isinstance(method, dict):
        name = _word(method.get("quant_method"))
        bits = _whole(method, "bits")
        return f"{name} {bits} bit" if name and bits else name
    for one in (config, text):
        found = _word(one.get("dtype")) or _word(one.get("torch_dtype"))
        if found:
            return found
    return None


def _word(value: object) -> str | None:
    return value[:64] if isinstance(value, str) and value else None


def _whole(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of `names` that is a positive whole number below what any model has."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_OF:
            return value
    return None
