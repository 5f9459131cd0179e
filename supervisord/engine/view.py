"""What `supctl status` shows, as values: read from everybody, written by nobody."""

from dataclasses import asdict
from datetime import UTC, datetime

from supervisord.core.memory import GpuSample
from supervisord.core.placement import HOST
from supervisord.engine.supervisor import Supervisor
from supervisord.engine.view_backend import backend_entry, pids_of
from supervisord.engine.view_pools import View, pools

__all__ = ["backend_entry", "status"]


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
        "groups": asdict(supervisor.ports.processes.groups()),
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
        "depth": queue.depth,
        "limit": queue.limit,
        "backlog": supervisor.durable.waiting,
        "backlog_limit": supervisor.durable.backlog.policy.limit,
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
    owners = {pid: b.name for b in supervisor.backends.values() for pid in pids_of(b)}
    return [
        {"name": owners.get(p.pid, p.name), "pid": p.pid, "used_bytes": p.used, "ours": p.pid in owners}
        for p in gpu.processes
    ]
