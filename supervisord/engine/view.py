"""What `supctl status` shows, as values: read from everybody, written by nobody."""

from datetime import UTC, datetime

from supervisord.core.life import Phase
from supervisord.core.memory import GpuSample
from supervisord.core.placement import HOST
from supervisord.engine.backend import Backend
from supervisord.engine.supervisor import Supervisor
from supervisord.engine.view_pools import View, pools
from supervisord.runtimes.base import BackendSpec


async def status(supervisor: Supervisor, *, version: str, listen: str, pid: int) -> View:
    """Every figure with its unit in the key."""
    now = supervisor.ports.clock.monotonic()
    midnight = datetime.fromtimestamp(supervisor.ports.clock.wall(), UTC).astimezone()
    today = midnight.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    counts = await supervisor.ports.store.counts_since(today)
    store = supervisor.ports.store.state()
    return {
        "version": version,
        "uptime_s": now - supervisor.started_at,
        "listen": listen,
        "pid": pid,
        "state": "draining" if supervisor.draining else "running",
        "degraded": supervisor.degraded(),
        "queue": _queue(supervisor, now),
        "jobs_today": {"done": counts.done, "failed": counts.failed},
        "host": _host(supervisor, now),
        "gpu_sensor": {"state": supervisor.sampler.gpus.state.value, "problem": supervisor.sampler.gpus.problem},
        "gpus": [_gpu(supervisor, gpu, now) for gpu in supervisor.sampler.gpus.gpus],
        "pools": pools(supervisor),
        "store": {
            "path": store.path,
            "size_bytes": store.size_bytes,
            "pending": store.pending,
            "problem": store.problem,
        },
        "backends": [backend_entry(supervisor, backend) for backend in supervisor.backends.values()],
    }


def _queue(supervisor: Supervisor, now: float) -> View:
    queue = supervisor.dispatcher.queue
    oldest = queue.oldest()
    return {
        "depth": len(queue),
        "limit": queue.limit,
        "oldest_s": None if oldest is None else now - oldest,
        "paused": supervisor.dispatcher.paused_reason(),
        "in_flight": supervisor.dispatcher.in_flight,
    }


def _host(supervisor: Supervisor, now: float) -> View | None:
    host = supervisor.sampler.host
    if host is None:
        return None
    return {
        "pressure": supervisor.sampler.level(HOST).label,
        "ram_total_bytes": host.total,
        "ram_available_bytes": host.available,
        "swap_total_bytes": host.swap_total,
        "swap_used_bytes": host.swap_used,
        "swap_in_bytes_per_s": host.swap_in_rate,
        "swap_out_bytes_per_s": host.swap_out_rate,
        "stall_some_percent": host.stall_some,
        "stall_full_percent": host.stall_full,
        "missing": list(host.missing),
        "sample_age_s": now - host.at,
    }


def _gpu(supervisor: Supervisor, gpu: GpuSample, now: float) -> View:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "state": gpu.state.value,
        "problem": gpu.problem,
        "pressure": supervisor.sampler.level(gpu.uuid).label,
        "vram_total_bytes": gpu.total,
        "vram_used_bytes": gpu.used,
        "vram_free_bytes": gpu.free,
        "utilization_ratio": gpu.utilization,
        "temperature_c": gpu.temperature_c,
        "power_w": gpu.power_w,
        "sample_age_s": now - gpu.at,
        "holders": _holders(supervisor, gpu),
    }


def _holders(supervisor: Supervisor, gpu: GpuSample) -> list[View]:
    owners = {pid: b.name for b in supervisor.backends.values() for pid in _pids(b)}
    return [
        {"name": owners.get(p.pid, p.name), "pid": p.pid, "used_bytes": p.used, "ours": p.pid in owners}
        for p in gpu.processes
    ]


def _pids(backend: Backend) -> frozenset[int]:
    generation = backend.generation
    if generation is None or generation.usage is None:
        return frozenset()
    return frozenset(generation.usage.pids)


def backend_entry(supervisor: Supervisor, backend: Backend) -> View:
    """One line of the table."""
    state, generation, spec = backend.state, backend.generation, backend.spec
    now = supervisor.ports.clock.monotonic()
    has_process = state.phase not in {Phase.STOPPED, Phase.BACKOFF, Phase.PARKED, Phase.STARTING}
    identity = generation.identity if generation is not None else None
    usage = generation.usage if generation is not None and has_process else None
    log = generation.process.log_state() if generation is not None and generation.process is not None else None
    footprint = backend.footprint_on(state.rung)
    return {
        "name": backend.name,
        "runtime": spec.runtime.value,
        "phase": state.phase.value,
        "want": state.want.value,
        "standing": supervisor.placer.standing_of(backend).value if backend.runtime.has_process else None,
        "held": supervisor.placer.held(backend.name),
        "since_s": now - state.since,
        "pid": generation.pid if generation is not None and has_process else None,
        "port": generation.port if generation is not None and has_process else None,
        "generation": state.generation,
        "models": [name for route in supervisor.routes.of_backend(backend.name) for name in route.names],
        "model": _label(spec),
        "quantization": identity.quantization if identity else None,
        "context_tokens": (identity.context_length if identity else None) or footprint.context,
        "context_reduced": footprint.context != backend.footprint_on(0).context,
        "slots": spec.slots,
        "in_flight": state.in_flight,
        "queued": _queued(supervisor, backend.name),
        "tokens_per_second": backend.tokens_per_second,
        "restarts": state.restarts,
        "last_reason": state.cause.summary if state.cause else "",
        "rung": state.rung,
        "rungs": len(backend.rungs),
        "note": _note(supervisor, backend),
        "rss_bytes": usage.rss if usage else None,
        "swap_bytes": usage.swap if usage else None,
        "vram_bytes": supervisor.sampler.vram_of(_pids(backend)) if has_process else None,
        "next_start_in_s": _until(state.deadline, now) if state.phase in {Phase.BACKOFF, Phase.PARKED} else None,
        "log": {
            "lines": log.lines if log else 0,
            "dropped_bytes": log.dropped_bytes if log else 0,
            "degraded": log.degraded if log else "",
        },
    }


def _until(deadline: float | None, now: float) -> float | None:
    return None if deadline is None else max(0.0, deadline - now)


def _label(spec: BackendSpec) -> str:
    return spec.model.rpartition("/")[2]


def _queued(supervisor: Supervisor, name: str) -> int:
    """Jobs that wait and that it could serve."""
    queue = supervisor.dispatcher.queue
    return sum(queue.waiting_for(route.name) for route in supervisor.routes.of_backend(name))


def _note(supervisor: Supervisor, backend: Backend) -> str:
    """The one thing worth saying about a backend now."""
    state = backend.state
    if held := supervisor.placer.held(backend.name):
        return held
    if state.phase is Phase.READY and state.reason:
        return state.reason
    if state.phase is Phase.READY and state.rung:
        cause = state.cause.kind.value.replace("_", " ") if state.cause else "OOM"
        name = backend.generation.rung_name if backend.generation is not None else ""
        return f"rung {state.rung} after {cause}: {name}"
    if state.phase is Phase.READY and state.restarts and state.cause:
        return f"generation {state.generation}; the one before: {state.cause.summary}"
    if state.phase in {Phase.LOADING, Phase.STOPPING} and backend.generation is not None and backend.generation.note:
        return backend.generation.note
    return state.reason
