"""Facts from GGUF files: one, or the parts of a split one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from supervisord.adapters.model_files.gguf_header import Header, HeaderError, read_header
from supervisord.core.footprint import ModelFacts

_SPLIT: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")  # as gguf-split names its parts
_MOST_PARTS: Final = 1000

_ARCHITECTURE, _FILE_TYPE, _TOKENS = "general.architecture", "general.file_type", "tokenizer.ggml.tokens"
_OF_THE_MODEL: Final = (
    "context_length", "block_count", "embedding_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window",
    "attention.sliding_window_pattern",
)  # fmt: skip

# Every n-th layer keeps its whole context, the others a window; where the file does not say n, it stands in the source
# of llama.cpp (src/models/, set_swa_pattern). Others that name a window do not use it there.
_PATTERN: Final = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "gpt-oss": 2, "cohere2": 4, "olmo2": 4, "afmoe": 4,
}  # fmt: skip

# llama.h, enum llama_ftype.
_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

# Past any model there is: a product of what a damaged file says must stay a number of bytes.
_MOST: Final = {"block_count": 4096, "attention.head_count_kv": 4096, "attention.key_length": 65536}
_MOST_OF_OTHERS: Final = 2**31


def parts(path: Path) -> tuple[Path, ...]:
    """The files of the model that `path` is, or begins: the first has the header."""
    found = _SPLIT.search(path.name)
    if found is None or not 1 <= int(found[2]) <= _MOST_PARTS:
        return (path,)
    stem, count = path.name[: found.start()], int(found[2])
    return tuple(path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def facts(files: Sequence[Path]) -> ModelFacts | None:
    """What the model in `files` says of itself; None: it is none, or damaged. Raises OSError."""
    weights = sum(file.stat().st_size for file in files)
    with files[0].open("rb") as file:
        try:
            header = read_header(file, _is_wanted)
        except HeaderError:
            return None
    return _Model(header).facts(weights)


def _is_wanted(key: str) -> bool:
    return key in {_ARCHITECTURE, _FILE_TYPE} or key.partition(".")[2] in _OF_THE_MODEL


class _Model:
    def __init__(self, header: Header) -> None:
        self._header = header
        self._architecture = str(header.values.get(_ARCHITECTURE, ""))

    def facts(self, weights: int) -> ModelFacts:
        of_layers = self._kv_of_layers()
        kept = self._windowed()
        file_type = self._header.values.get(_FILE_TYPE)
        return ModelFacts(
            weights=weights,
            layers=self._whole("block_count"),
            kv_bytes_per_token=sum(of_layers) if of_layers else None,
            windowed_kv_bytes_per_token=sum(size for layer, size in enumerate(of_layers) if kept(layer)),
            window=self._whole("attention.sliding_window"),
            trained_context=self._whole("context_length"),
            embedding_size=self._whole("embedding_length"),
            vocabulary=self._whole("vocab_size") or self._header.lengths.get(_TOKENS) or None,
            quantization=_FILE_TYPES.get(file_type) if isinstance(file_type, int) else None,
        )

    def _kv_of_layers(self) -> tuple[int, ...]:
        """Bytes of K and V a token takes in each layer; empty: the file does not say."""
        layers, heads = self._whole("block_count"), self._whole("attention.head_count")
        width = self._whole("embedding_length")
        of_a_head = width // heads if width and heads else None
        key = self._whole("attention.key_length") or of_a_head
        value = self._whole("attention.value_length") or key
        if layers is None or key is None or value is None:
            return ()
        per_layer = self._figures("attention.head_count_kv")
        if per_layer:  # of layers without attention it is 0
            return tuple(2 * count * (key + value) for count in per_layer[:layers])
        shared = self._whole("attention.head_count_kv") or heads
        return () if shared is None else (2 * shared * (key + value),) * layers

    def _windowed(self) -> "_Windowed":
        if self._whole("attention.sliding_window") is None:
            return _Windowed((), None)
        every = self._whole("attention.sliding_window_pattern") or _PATTERN.get(self._architecture)
        return _Windowed(self._figures("attention.sliding_window_pattern"), every)

    def _whole(self, name: str) -> int | None:
        """A positive number below what any model has; None: not said, or not believed."""
        value = self._header.values.get(f"{self._architecture}.{name}")
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if 0 < value <= _MOST.get(name, _MOST_OF_OTHERS) else None

    def _figures(self, name: str) -> tuple[int, ...]:
        value = self._header.values.get(f"{self._architecture}.{name}")
        most = _MOST.get(name, _MOST_OF_OTHERS)
        return tuple(min(max(0, one), most) for one in value) if isinstance(value, tuple) else ()


class _Windowed:
    """Whether a layer keeps a window only: said for each, or for all but each n-th."""

    def __init__(self, said: tuple[int, ...], every: int | None) -> None:
        self._said = said
        self._every = every

    def __call__(self, layer: int) -> bool:
        if self._said:
            return layer < len(self._said) and bool(self._said[layer])
        return self._every is not None and layer % self._every < self._every - 1
