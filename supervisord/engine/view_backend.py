"""One backend as `supctl status` shows it."""

from supervisord.core.memory import GroupUsage
from supervisord.core.resizing import climb_at
from supervisord.core.state import Phase
from supervisord.engine.backend import Backend
from supervisord.engine.supervisor import Supervisor
from supervisord.engine.view_pools import View
from supervisord.ports import LogState
from supervisord.runtimes.base import BackendSpec


def pids_of(backend: Backend) -> frozenset[int]:
    """Every process of its tree, as the latest sample has it."""
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
        "rung_name": backend.rung_name,
        "rung_why": state.rung_why,
        "rungs": len(backend.rungs),
        "climb_in_s": _until(climb_at(state, backend.policy), now),
        "note": _note(supervisor, backend),
        "rss_bytes": usage.rss if usage else None,
        "swap_bytes": usage.swap if usage else None,
        "vram_bytes": supervisor.sampler.vram_of(pids_of(backend)) if has_process else None,
        "limits": {"memory_bytes": spec.limits.memory, "pids": spec.limits.pids},
        "group": _group(usage.group) if usage and usage.group else None,
        "next_start_in_s": _until(state.deadline, now) if state.phase in {Phase.BACKOFF, Phase.PARKED} else None,
        "log": _log(log or LogState()),
    }


def _group(group: GroupUsage) -> View:
    return {
        "memory_bytes": group.current,
        "memory_peak_bytes": group.peak,
        "memory_limit_bytes": group.limit,
        "at_limit": group.at_limit,
        "oom_kills": group.oom_kills,
        "stall_full_percent": group.stall_full,
        "pids": group.pids,
    }


def _log(log: LogState) -> View:
    return {
        "lines": log.lines,
        "cut_lines": log.cut_lines,
        "dropped_bytes": log.dropped_bytes,
        "degraded": log.degraded,
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
        return f"rung {state.rung} ({backend.rung_name}): {state.rung_why}"
    if state.phase is Phase.READY and state.restarts and state.cause:
        return f"generation {state.generation}; the one before: {state.cause.summary}"
    if state.phase in {Phase.LOADING, Phase.STOPPING} and backend.generation is not None and backend.generation.note:
        return backend.generation.note
    return state.reason
