"""The stub backend's command line: the flags of llama-server and of vLLM that matter, and the faults it can show."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Serving:
    """What a healthy stub does. Times are seconds; a rate of 0 means at once."""

    host: str = "127.0.0.1"
    port: int = 8080
    runtime: str = "llama.cpp"  # or "vllm"
    model: str = "stub.gguf"
    alias: str = ""  # vLLM's several names with commas between
    ctx: int = 0  # tokens over all slots, as llama-server counts; vLLM: of each request; 0: 4096 for each
    slots: int = 1  # requests computed at a time; further ones wait, in order
    tokens: int = 8  # of an answer, unless the request's max_tokens is less
    token_rate: float = 0.0  # tokens per second of each request
    prefill_seconds: float = 0.0
    prefill_spins: bool = False  # it uses a processor meanwhile; its counters stand still in any case
    aligned: bool = False  # all streams get their token at the same moment, as a vLLM step gives it
    chunk_bytes: int = 0  # at least so many bytes of content in each token
    stamp: bool = False  # each token's content is "@<monotonic nanoseconds>", for delay measurements
    ping_every: float = 0.0  # SSE comments while a stream waits, as llama-server sends them
    load_seconds: float = 0.0
    load_log_every: float = 0.0
    max_concurrent_report: str = ""  # a line with each new peak of requests received and not yet answered
    request_log: str = ""  # a JSON line for each inference request that ended, however it ended
    max_tokens_report: str = ""  # a line with each new peak of tokens, prompts and longest answers, in flight
    vram: str = ""  # taken from the stand-in GPU while it loads, e.g. 8GiB; more than is free ends it as it would
    vram_gpu: str = ""  # index; empty: what CUDA_VISIBLE_DEVICES says, else 0
    vram_load: bool = False  # bit by bit over the time it loads, not at its beginning
    ram: str = ""  # really allocated and written to, bit by bit over the time it loads
    kv_tokens: int = 0  # capacity of the KV cache, vLLM; 0: as many as its sequences could need
    preempt_above: int = 0  # tokens in flight above which each new request throws another one out, vLLM
    fork_engine: bool = False  # vLLM's three processes; the last of them holds the memory


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Counts are of inference requests, from 1; 0 means never."""

    load_stall: bool = False  # never becomes ready, and prints nothing unless --load-log-every says so
    load_exit_oom: bool = False  # llama.cpp's words for a failed cudaMalloc at the end of loading, then status 1
    load_oom_above_ctx: int = 0  # the same, only where -c (--max-model-len) asks for more; vLLM says what would fit
    exit_after_ready: float = -1.0  # seconds
    exit_status: int = 0
    abort_with_cuda_oom_on_request: int = 0  # SIGABRT after llama.cpp's words
    oom_alive_above_ctx: int = 0  # every request: the words, status 500, and it lives; only where -c asks for more
    abort_on: str = ""  # SIGABRT after the words of a failed assertion, for each prompt with this in it
    die_before_first_byte: int = 0  # SIGKILL itself
    die_mid_stream: int = 0  # SIGKILL itself after half of the tokens
    hang_on_request: int = 0  # this, all later ones, /slots and /metrics; /health stays 200, as seen in the field
    spins: bool = False  # from where it hangs on it uses a processor
    hang_mid_stream: int = 0  # half of the tokens, then nothing but pings
    half_open: bool = False  # reads every inference request, answers none
    hang_health: bool = False  # once it is ready
    status: int = 0  # this instead of an answer
    garbage: bool = False
    half_head: bool = False  # and then closes
    wrong_length: str = ""  # "longer" or "shorter": the body is, than its Content-Length says
    reset: bool = False  # instead of an answer
    times: int = 0  # how often status, garbage, half_head, wrong_length, reset, error_event happen; 0: always
    error_event_then_done: bool = False  # a stream of HTTP 200, an error event and [DONE]: vLLM whose engine died
    ignore_term: bool = False
    deaf_leader: bool = False  # does not notice that its engine died
    fork_worker: bool = False  # a child in a session of its own that holds stdout
    log_flood: int = 0  # bytes on stdout, once ready, in one line without an end
    fail_embeddings: int = 0  # status
    lacks: str = ""  # paths that it does not have, with commas between: an older version, or another server
    split_utf8: bool = False  # code points cut in two by chunks and writes
    invalid_utf8: bool = False


_SHORT = {"-m": "model", "-a": "alias", "-c": "ctx", "-np": "slots", "--ctx-size": "ctx", "--parallel": "slots"} | {
    "--max-model-len": "ctx",
    "--max-num-seqs": "slots",
    "--served-model-name": "alias",
}
_FIELDS = {field.name: type(field.default) for kind in (Serving, Faults) for field in fields(kind)}


def _values(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Known flags to their values; what is not known is llama-server's business and skipped."""
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag, _, inline = rest.pop(0).partition("=")
        name = _SHORT.get(flag) or (flag[2:].replace("-", "_") if flag.startswith("--") else "")
        kind = _FIELDS.get(name)
        if kind is bool:
            values[name] = True
        elif flag == "serve":
            values |= {"runtime": "vllm", "model": rest.pop(0)}
        elif flag == "--served-model-name":
            values[name] = ",".join([inline] if inline else _taken(rest))
        elif name == "slots" and flag == "--slots" and not (inline or (rest and rest[0].isdigit())):
            continue  # llama-server's --slots takes no value: it only opens the endpoint
        elif kind is not None:
            values[name] = kind(inline or rest.pop(0))
    return values


def _taken(rest: list[str]) -> list[str]:
    """The values up to the next flag, taken out of `rest`."""
    values = []
    while rest and not rest[0].startswith("-"):
        values.append(rest.pop(0))
    return values


def size(text: str) -> int:
    """Bytes of "8GiB", "200MiB" or a number; 0 for nothing."""
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
    for unit, factor in units.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text or 0)


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> tuple[Serving, Faults, str]:
    """Command line over STUB_FAULTS over defaults; and the path that remembers that a fault has struck."""
    flags = [*shlex.split(environment.get("STUB_FAULTS", "")), *arguments]
    once = ""
    if "--once-file" in flags:
        at = flags.index("--once-file")
        once = flags[at + 1]
        del flags[at : at + 2]
    values = _values(flags)
    serving = replace(Serving(), **{name: values[name] for name in values if name in Serving.__slots__})
    faults = replace(Faults(), **{name: values[name] for name in values if name in Faults.__slots__})
    if once and Path(once).exists():
        faults = Faults()
    return serving, faults, once
