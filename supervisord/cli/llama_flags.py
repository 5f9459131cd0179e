"""llama-server's flags, as far as the embedded engine has what they set.

Standard library only, so that a mistake is told before the engine is loaded. Names and meanings are those of
`llama-server --help`; what each sets is an attribute of `xllamacpp.CommonParams`, which mirrors llama.cpp's own struct.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.cli import llama_values as values
from supervisord.cli.llama_values import Member, Value

DEFAULT_PORT = 8080


class FlagError(Exception):
    """The command line cannot be used; the message is in llama-server's own words."""


class Show(StrEnum):
    """What to print instead of serving."""

    NOTHING = ""
    HELP = "help"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. Without `convert` it takes no value and sets `constant`; without `targets` it changes nothing here.

    A target is an attribute of CommonParams, dotted for a nested one. `adds`: given again, it adds to what was given.
    """

    names: tuple[str, ...]
    targets: tuple[str, ...]
    help: str
    convert: Callable[[str], Value] | None = None
    metavar: str = ""
    constant: Value = True
    adds: bool = False


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for. `params` maps targets to values."""

    model: str = ""
    params: Mapping[str, Value] = field(default_factory=dict)
    show: Show = Show.NOTHING


# --- the table -------------------------------------------------------------------------------------------------------

_MODEL, _SHOW, _MMAP, _MLOCK = "model", "show", "mmap", "mlock"  # targets that are not attributes of CommonParams

FLAGS: tuple[Flag, ...] = (
    Flag(("-h", "--help", "--usage"), (_SHOW,), "print usage and exit", constant=Show.HELP),
    Flag(("--version",), (_SHOW,), "show version and exit", constant=Show.VERSION),
    Flag(("-m", "--model"), (_MODEL,), "model file; 'embedded' stands for the bundled model", values.text, "FNAME"),
    Flag(("-a", "--alias"), ("model_alias",), "model names for the API, comma-separated", values.listed, "STRING"),
    Flag(("--host",), ("hostnames",), "address to listen on (default: 127.0.0.1)", values.one, "HOST"),
    Flag(
        ("--port",),
        ("port",),
        f"port to listen on; 0: any free one (default: {DEFAULT_PORT})",
        values.whole(0, 65535),
        "PORT",
    ),
    Flag(("--reuse-port",), ("reuse_port",), "allow several sockets on the port"),
    Flag(("--api-key",), ("api_keys",), "key clients must show; comma-separated list", values.listed, "KEY", adds=True),
    Flag(("--api-key-file",), ("api_keys",), "file with such keys, one a line", values.file_lines, "FNAME", adds=True),
    Flag(
        ("-to", "--timeout"),
        ("timeout_read", "timeout_write"),
        "read and write timeout in seconds",
        values.whole(1),
        "N",
    ),
    Flag(
        ("--threads-http",), ("n_threads_http",), "threads that serve HTTP (default: -1, auto)", values.whole(-1), "N"
    ),
    Flag(("--offline",), ("offline",), "never use the network for models"),
    Flag(("--ui", "--webui"), ("ui",), "serve the web page (default)"),
    Flag(("--no-ui", "--no-webui"), ("ui",), "do not serve the web page", constant=False),
    Flag(("--metrics",), ("endpoint_metrics",), "enable GET /metrics"),
    Flag(("--slots",), ("endpoint_slots",), "enable GET /slots (default)"),
    Flag(("--no-slots",), ("endpoint_slots",), "disable GET /slots", constant=False),
    Flag(("--props",), ("endpoint_props",), "enable POST /props"),
    Flag(
        ("-c", "--ctx-size"), ("n_ctx",), "context in tokens, over all slots; 0: the model's own", values.whole(0), "N"
    ),
    Flag(("-np", "--parallel"), ("n_parallel",), "number of slots (default: 1)", values.whole(1), "N"),
    Flag(("-n", "--predict", "--n-predict"), ("n_predict",), "tokens to predict; -1: no limit", values.whole(-1), "N"),
    Flag(("-b", "--batch-size"), ("n_batch",), "logical batch size (default: 2048)", values.whole(1), "N"),
    Flag(("-ub", "--ubatch-size"), ("n_ubatch",), "physical batch size (default: 512)", values.whole(1), "N"),
    Flag(("--keep",), ("n_keep",), "tokens of the prompt to keep; -1: all", values.whole(-1), "N"),
    Flag(("--context-shift",), ("ctx_shift",), "shift the context when it is full"),
    Flag(("--no-context-shift",), ("ctx_shift",), "do not (default)", constant=False),
    Flag(("-kvu", "--kv-unified"), ("kv_unified",), "one KV cache for all slots"),
    Flag(("-no-kvu", "--no-kv-unified"), ("kv_unified",), "one KV cache for each (default)", constant=False),
    Flag(("--swa-full",), ("swa_full",), "full-size cache for sliding-window attention"),
    Flag(
        ("-ctk", "--cache-type-k"),
        ("cache_type_k",),
        "type of the KV cache for K (default: f16)",
        values.CACHE_TYPE,
        "TYPE",
    ),
    Flag(
        ("-ctv", "--cache-type-v"),
        ("cache_type_v",),
        "type of the KV cache for V (default: f16)",
        values.CACHE_TYPE,
        "TYPE",
    ),
    Flag(
        ("-cram", "--cache-ram"),
        ("cache_ram_mib",),
        "prompt cache in MiB; -1: no limit (default: 8192)",
        values.whole(-1),
        "N",
    ),
    Flag(("--cache-prompt",), ("cache_prompt",), "reuse the KV cache of a common prefix (default)"),
    Flag(("--no-cache-prompt",), ("cache_prompt",), "do not", constant=False),
    Flag(("--cache-reuse",), ("n_cache_reuse",), "smallest chunk to reuse by shifting", values.whole(0), "N"),
    Flag(
        ("-ctxcp", "--ctx-checkpoints"),
        ("n_ctx_checkpoints",),
        "context checkpoints a slot (default: 32)",
        values.whole(0),
        "N",
    ),
    Flag(("-cb", "--cont-batching"), ("cont_batching",), "continuous batching (default)"),
    Flag(("-nocb", "--no-cont-batching"), ("cont_batching",), "no continuous batching", constant=False),
    Flag(
        ("-fa", "--flash-attn"),
        ("flash_attn_type",),
        "flash attention: on, off, auto (default: auto)",
        values.FLASH_ATTENTION,
        "WHEN",
    ),
    Flag(
        ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        ("n_gpu_layers",),
        "layers in VRAM: N, auto, all",
        values.gpu_layers,
        "N",
    ),
    Flag(("-mg", "--main-gpu"), ("main_gpu",), "the GPU to use", values.whole(0), "INDEX"),
    Flag(("-nkvo", "--no-kv-offload"), ("no_kv_offload",), "keep the KV cache in host RAM"),
    Flag(("-fit", "--fit"), ("fit_params",), "fit unset sizes to free device memory: on, off", values.ON_OFF, "WHEN"),
    Flag(
        ("-fitt", "--fit-target"),
        ("fit_params_target",),
        "MiB to leave free on each device",
        values.mebibytes_each,
        "MiB,…",
    ),
    Flag(
        ("-fitc", "--fit-ctx"), ("fit_params_min_ctx",), "smallest context that fitting may set", values.whole(0), "N"
    ),
    Flag(("-t", "--threads"), ("cpuparams.n_threads",), "CPU threads; -1: auto", values.whole(-1), "N"),
    Flag(("-tb", "--threads-batch"), ("cpuparams_batch.n_threads",), "CPU threads for prompts", values.whole(-1), "N"),
    Flag(("--mlock",), (_MLOCK,), "keep the model in RAM"),
    Flag(("--mmap",), (_MMAP,), "map the model file (default)"),
    Flag(("--no-mmap",), (_MMAP,), "read the model file instead of mapping it", constant=False),
    Flag(("--warmup",), ("warmup",), "run once before serving (default)"),
    Flag(("--no-warmup",), ("warmup",), "do not", constant=False),
    Flag(("--check-tensors",), ("check_tensors",), "check the tensors for invalid values"),
    Flag(("--embedding", "--embeddings"), ("embedding",), "serve embeddings only"),
    Flag(("--pooling",), ("pooling_type",), "pooling: none, mean, cls, last, rank", values.POOLING, "TYPE"),
    Flag(("--jinja",), ("use_jinja",), "Jinja chat templates (default)"),
    Flag(("--no-jinja",), ("use_jinja",), "no Jinja chat templates", constant=False),
    Flag(("--chat-template",), ("chat_template",), "chat template: a name or Jinja text", values.text, "TEMPLATE"),
    Flag(("--chat-template-file",), ("chat_template",), "file with the chat template", values.file_text, "FNAME"),
    Flag(
        ("--reasoning-format",),
        ("reasoning_format",),
        "none, auto, deepseek, deepseek-legacy",
        values.REASONING_FORMAT,
        "FORMAT",
    ),
    Flag(
        ("-r", "--reverse-prompt"),
        ("antiprompt",),
        "stop sequence where a request has none",
        values.stop_sequence,
        "TEXT",
        adds=True,
    ),
    Flag(("-s", "--seed"), ("sampling.seed",), "seed; -1: random", values.seed, "SEED"),
    Flag(("-sps", "--slot-prompt-similarity"), (), "accepted, changes nothing here", values.text, "N"),
    Flag(("-v", "--verbose", "--log-verbose"), ("verbosity",), "log everything", constant=values.INT32_MAX),
    Flag(("-lv", "--verbosity", "--log-verbosity"), ("verbosity",), "log up to this level", values.whole(-1), "N"),
    Flag(("--log-disable",), ("verbosity",), "log nothing", constant=-1),
    Flag(("--log-colors",), (), "accepted, changes nothing here", values.text, "WHEN"),
    Flag(("--log-prefix", "--no-log-prefix"), (), "accepted, changes nothing here"),
    Flag(("--log-timestamps", "--no-log-timestamps"), (), "accepted, changes nothing here"),
)

_BY_NAME: Mapping[str, Flag] = {name: flag for flag in FLAGS for name in flag.names}

# --- parsing ---------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> CommandLine:
    """Read the arguments after the program's name. Given twice, the last one counts, as in llama-server.

    Raises FlagError: an unknown flag, a missing or impossible value, no model.
    """
    found: dict[str, Value] = {"port": DEFAULT_PORT}
    words = iter(argv)
    for word in words:
        flag = _BY_NAME.get(word)
        if flag is None:
            raise FlagError(f"invalid argument: {word}")
        value = flag.constant if flag.convert is None else _converted(word, flag.convert, next(words, None))
        for target in flag.targets:
            found[target] = _joined(found.get(target), value) if flag.adds else value
        if _SHOW in flag.targets:
            return CommandLine(show=Show(str(value)))
    model = str(found.pop(_MODEL, ""))
    if not model:
        raise FlagError("no model: say -m FILE, or -m embedded for the bundled one")
    return CommandLine(model, _with_load_mode(found))


def _converted(word: str, convert: Callable[[str], Value], text: str | None) -> Value:
    if text is None:
        raise FlagError(f'error while handling argument "{word}": expected value for argument')
    try:
        return convert(text)
    except ValueError as error:
        raise FlagError(f'error while handling argument "{word}": {error}') from None


def _joined(before: Value | None, more: Value) -> Value:
    if isinstance(before, tuple) and isinstance(more, tuple):
        return tuple(str(part) for part in (*before, *more))
    return more


def _with_load_mode(found: Mapping[str, Value]) -> Mapping[str, Value]:
    """`--mlock` and `--no-mmap` are one setting of the engine; without either it decides by itself."""
    params = {target: value for target, value in found.items() if target not in {_MMAP, _MLOCK}}
    if params.keys() == found.keys():
        return params
    modes = [name for name, wanted in (("MMAP", found.get(_MMAP, True)), ("MLOCK", found.get(_MLOCK, False))) if wanted]
    return {**params, "load_mode": Member("llama_load_mode", f"LLAMA_LOAD_MODE_{'_'.join(modes) or 'NONE'}")}


def usage() -> str:
    """The text of `--help`: one line a flag, in llama-server's layout."""
    rows = [(", ".join(flag.names) + (f" {flag.metavar}" if flag.metavar else ""), flag.help) for flag in FLAGS]
    width = max(len(names) for names, _ in rows) + 2
    lines = [f"{names:<{width}}{text}" for names, text in rows]
    return "\n".join(["usage: llm-supervisord-llama-server -m FNAME [options]", "", *lines])
