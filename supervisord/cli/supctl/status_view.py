"""`supctl status` on a screen: what the daemon, the host and the GPUs do, then a line for each backend."""

import textwrap
from collections.abc import Mapping, Sequence

from supervisord.cli.supctl import pool_view
from supervisord.cli.supctl.figures import ABSENT, count, gib, mib_rate, rate, span, tokens
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.table import Column, table
from supervisord.cli.supctl.wire import Gpu, Host, Pool, Queue
from supervisord.cli.supctl.wire_status import Backend, Status

STALE_AFTER_S = 15.0  # three times the slowest sampling: an older figure is told with its age
NO_SWAP = "no swap"  # the daemon lists it among what is missing, in these words
HOST = "host"  # the key of its pool
HOLDERS_SHOWN = 4  # a desktop holds VRAM with dozens of small processes

_PHASES = {
    "ready": Style.GOOD,
    "starting": Style.BUSY,
    "loading": Style.BUSY,
    "suspect": Style.BUSY,
    "draining": Style.BUSY,
    "stopping": Style.BUSY,
    "stopped": Style.FAINT,
    "backoff": Style.BAD,
    "parked": Style.BAD,
    "unkillable": Style.BAD,
}
_PRESSURES = {"ok": Style.PLAIN, "tight": Style.BUSY, "critical": Style.BAD}

# Left out first where the screen is narrow: what `--json` or the lines above tell too.
_COLUMNS = (
    Column("BACKEND", floor=12),
    Column("PHASE"),
    Column("SINCE", drop=7),
    Column("PID", drop=3),
    Column("MODEL", floor=16),
    Column("CTX", drop=5),
    Column("IN FLIGHT"),
    Column("TOK/S", drop=6),
    Column("RESTARTS", drop=4),
    Column("QUEUE", drop=2),
    Column("RAM/VRAM", drop=1),
    Column("NOTE", floor=28),
)


def report(status: Status, screen: Screen) -> list[str]:
    """The lines of the report; none is wider than the screen."""
    lines = screen.flow(_summary(status), gap="  ")
    pools = {pool.key: pool for pool in status.pools}
    lines += screen.flow(_host(status.host), gap="   ", indent="      ")
    lines += pool_view.below(pools.pop(HOST, None), screen)
    lines += _gpus(status, pools, screen)
    for backend in status.backends:
        if backend.held:
            lines += _wrapped(Cell(f"{backend.name}: {backend.held}", Style.BUSY), screen)
    for warning in _warnings(status):
        lines += _wrapped(warning, screen)
    lines.append("")
    if not status.backends:
        return [*lines, "no backends are configured"]
    return lines + table(_COLUMNS, [_row(backend) for backend in status.backends], screen)


def _summary(status: Status) -> list[Cell]:
    failed = Style.BUSY if status.failed_today else Style.PLAIN
    state = [] if status.state in {"running", ""} else [Cell(status.state, Style.BUSY)]
    return [
        Cell(f"llm-supervisord {status.version or ABSENT}", Style.STRONG),
        *state,
        Cell(f"up {span(status.uptime_s)}"),
        Cell(status.listen or ABSENT),
        _queue(status.queue),
        *([Cell(f"backlog {count(status.queue.backlog)}")] if status.queue.backlog else []),
        Cell(f"jobs today {count(status.done_today)} done, {count(status.failed_today)} failed", failed),
    ]


def _queue(queue: Queue) -> Cell:
    full = queue.limit > 0 and queue.depth >= queue.limit
    inside = ["full"] if full else []
    if queue.depth and queue.oldest_s is not None:
        inside.append(f"oldest {span(queue.oldest_s)}")
    text = f"queue {count(queue.depth)}" + (f" ({', '.join(inside)})" if inside else "")
    return Cell(text, Style.BAD if full else Style.PLAIN)


def _host(host: Host | None) -> list[Cell]:
    if host is None:
        return [Cell("host  not measured yet")]
    pressure = "" if host.pressure in {"ok", ""} else f" {host.pressure}"
    stall = ABSENT if host.stall_percent is None else f"{host.stall_percent:.0f} %"
    cells = [
        Cell(
            f"host  RAM {gib(host.ram_total - host.ram_available)}/{gib(host.ram_total)} GiB{pressure}",
            _PRESSURES.get(host.pressure, Style.PLAIN),
        ),
        Cell(_swap(host)),
        Cell(f"stall {stall}"),
    ]
    missing = [what for what in host.missing if what != NO_SWAP]
    if missing:
        cells.append(Cell(", ".join(missing), Style.FAINT))
    return cells + _age(host.sample_age_s)


def _swap(host: Host) -> str:
    if not host.swap_total:
        return NO_SWAP
    text = f"swap {gib(host.swap_used)}/{gib(host.swap_total)} GiB"
    if host.swap_in_rate is None or host.swap_out_rate is None:
        return text
    if host.swap_in_rate < 1 and host.swap_out_rate < 1:
        return f"{text}, quiet"
    return f"{text}, in {mib_rate(host.swap_in_rate)}, out {mib_rate(host.swap_out_rate)}"


def _age(age: float | None, *, stale: bool = False) -> list[Cell]:
    if age is None or (age < STALE_AFTER_S and not stale):
        return [Cell("stale", Style.BAD)] if stale else []
    return [Cell(f"stale: measured {span(age)} ago", Style.BAD)]


def _gpus(status: Status, pools: Mapping[str, Pool], screen: Screen) -> list[str]:
    lines: list[str] = []
    if status.sensor_state == "absent":
        return _wrapped(Cell(f"gpu   none ({status.sensor_problem or 'no GPU'})", Style.FAINT), screen, indent="      ")
    if status.sensor_state not in {"ok", ""}:
        why = f": {status.sensor_problem}" if status.sensor_problem else ""
        lines += _wrapped(Cell(f"gpu   sensor {status.sensor_state}{why}", Style.BAD), screen, indent="      ")
    for gpu in status.gpus:
        pool = pools.get(gpu.uuid)
        lines += screen.flow(_gpu(gpu, told_below=pool is not None), gap="   ", indent="      ")
        lines += pool_view.below(pool, screen)
    return lines


def _gpu(gpu: Gpu, *, told_below: bool) -> list[Cell]:
    head = f"gpu{gpu.index}  {short_name(gpu.name)}"
    if gpu.state == "lost":
        return [Cell(f"{head}  lost: {gpu.problem or 'it does not answer any more'}", Style.BAD)]
    memory = f"{head}  VRAM {gib(gpu.used)}/{gib(gpu.total)} GiB {gpu.pressure}".rstrip()
    cells = [Cell(memory, _PRESSURES.get(gpu.pressure, Style.PLAIN))]
    if gpu.holders and not told_below:
        cells.append(Cell(_holders(gpu)))
    figures = ((gpu.utilization and gpu.utilization * 100, "% busy"), (gpu.temperature_c, "°C"), (gpu.power_w, "W"))
    cells += [Cell(f"{value:.0f} {unit}") for value, unit in figures if value is not None]
    if gpu.state == "failing":
        cells.append(Cell(f"its sensor fails{': ' if gpu.problem else ''}{gpu.problem}", Style.BAD))
    return cells + _age(gpu.sample_age_s, stale=gpu.state == "stale")


def _holders(gpu: Gpu) -> str:
    largest = sorted(gpu.holders, key=lambda holder: holder.used or 0, reverse=True)
    named = [f"{holder.name or f'pid {holder.pid}'} {gib(holder.used)}" for holder in largest[:HOLDERS_SHOWN]]
    if len(largest) > HOLDERS_SHOWN:
        named.append(f"{len(largest) - HOLDERS_SHOWN} more")
    return f"({', '.join(named)})"


def short_name(name: str) -> str:
    """RTX 4090, of "NVIDIA GeForce RTX 4090"."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _warnings(status: Status) -> list[Cell]:
    warnings = [f"degraded: {text}" for text in status.degraded]
    if status.queue.paused:
        warnings.append(f"dispatch paused: {status.queue.paused}")
    told = any(status.store_problem in text for text in status.degraded)
    if status.store_problem and not told:
        warnings.append(f"store: {status.store_problem}")
    return [Cell(text, Style.BUSY) for text in warnings]


def _wrapped(warning: Cell, screen: Screen, indent: str = "  ") -> list[str]:
    """A warning is never cut: its end is often what to do about it."""
    parts = textwrap.wrap(warning.text, screen.width, subsequent_indent=indent, break_on_hyphens=False)
    return [screen.paint(Cell(part, warning.style)) for part in parts]


def phase(name: str) -> Cell:
    """The phase of a backend, in its colour."""
    return Cell(name or ABSENT, _PHASES.get(name, Style.PLAIN))


def quantized(told: str) -> str:
    """llama.cpp says "Q4_K - Medium", files and people Q4_K_M."""
    for words, letter in ((" - Small", "_S"), (" - Medium", "_M"), (" - Large", "_L")):
        told = told.replace(words, letter)
    return told


def _row(backend: Backend) -> Sequence[Cell]:
    remote = backend.runtime == "remote"
    return (
        Cell(backend.name),
        phase(backend.phase),
        Cell(span(backend.since_s)),
        Cell(ABSENT if backend.pid is None else str(backend.pid)),
        Cell(_model(backend)),
        Cell(tokens(backend.context_tokens) + (" ↓" if backend.context_reduced else "")),
        Cell(f"{backend.in_flight}/{backend.slots}"),
        Cell(rate(backend.tokens_per_second)),
        Cell(ABSENT if remote else count(backend.restarts)),
        Cell(count(backend.queued)),
        Cell(_memory(backend)),
        Cell(_note(backend)),
    )


def _model(backend: Backend) -> str:
    if not backend.model:
        return "remote" if backend.runtime == "remote" else ABSENT
    model, quantization = backend.model.removesuffix(".gguf"), quantized(backend.quantization)
    if not quantization or quantization.casefold() in model.casefold():
        return model
    return f"{model} {quantization}"


def _memory(backend: Backend) -> str:
    if backend.rss is None and backend.vram is None:
        return ABSENT
    return f"{gib(backend.rss)}/{gib(backend.vram)}"


def _note(backend: Backend) -> str:
    failing = backend.phase in {"backoff", "parked", "unkillable"}
    parts = []
    if backend.next_start_in_s is not None:  # first, as the end may be cut
        parts.append(f"next start in {span(backend.next_start_in_s)}")
    parts.append(backend.note or (backend.last_reason if failing else ""))
    if backend.log.degraded:
        parts.append(f"log: {backend.log.degraded}")
    return "; ".join(part for part in parts if part)
