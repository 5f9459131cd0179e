"""The settings of one backend -> its BackendSpec."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from supervisord.config.problem import Path
from supervisord.config.resolver import Resolver
from supervisord.config.schema import AnyBackend
from supervisord.config.schema_backend import BackendSettings, LocalSettings
from supervisord.config.schema_command import CommandSettings
from supervisord.config.schema_llama_cpp import AUTO_LAYERS, EMBEDDED, LlamaCppRung, LlamaCppSettings
from supervisord.config.schema_remote import RemoteSettings
from supervisord.config.schema_vllm import FITTING, VllmRung, VllmSettings
from supervisord.core.exits import CauseKind, Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.memory import GroupLimits
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import BackendSpec, CommandOptions, MemoryNeed, RemoteOptions, VllmOptions

REMOTE_PROBE_S = 30.0  # a call each second would be 86 000 a day at somebody else's door


def build_backend(name: str, backend: AnyBackend, resolver: Resolver) -> BackendSpec:
    """The backend with absolute paths; what is wrong with one is noted in `resolver`."""
    at: Path = ("backends", name)
    spec = _common(name, backend)
    if isinstance(backend, LocalSettings):
        spec = _local(spec, backend, at, resolver)
    match backend:
        case LlamaCppSettings():
            return _llama_cpp(spec, backend, at, resolver)
        case VllmSettings():
            return _vllm(spec, backend, at, resolver)
        case CommandSettings():
            return _command(spec, backend, at, resolver)
        case RemoteSettings():
            given = "probe_interval" in backend.model_fields_set
            return _remote(spec if given else replace(spec, probe_interval_s=REMOTE_PROBE_S), backend)
        case _ as never:
            assert_never(never)


def _common(name: str, backend: BackendSettings) -> BackendSpec:
    return BackendSpec(
        name=name,
        runtime=backend.RUNTIME,
        model="",
        models=tuple(dict.fromkeys((name, *backend.aliases))),
        upstream_model=backend.upstream_model or "",
        life=_life(backend),
        autostart=backend.autostart,
        ttl_s=backend.ttl,
        priority=backend.priority,
        probe_interval_s=backend.probe_interval,
        probe_timeout_s=backend.timeouts.probe,
    )


def _life(backend: BackendSettings) -> LifePolicy:
    restart, timeouts = backend.restart, backend.timeouts
    return LifePolicy(
        slots=backend.slots,
        token_budget=backend.token_budget,
        load_stall_s=timeouts.load_stall,
        probe_hang_s=timeouts.probe_hang,
        progress_s=timeouts.progress,
        climb_after_s=restart.climb_after,
        busy_s=timeouts.busy,
        first_token_s=timeouts.first_token,
        drain_s=timeouts.drain,
        term_s=timeouts.term,
        kill_s=timeouts.kill,
        restart=RestartPolicy(
            base_s=restart.backoff.base,
            cap_s=restart.backoff.cap,
            max_failures=restart.max_failures,
            window_s=restart.within,
            stable_after_s=restart.stable_after,
            rearm_after_s=restart.rearm_after,
        ),
    )


def _local(spec: BackendSpec, backend: LocalSettings, at: Path, resolver: Resolver) -> BackendSpec:
    return replace(
        spec,
        port=backend.port,
        gpus=tuple(backend.gpus),
        cpus=backend.cpus,
        numa_node=backend.numa_node,
        memory=MemoryNeed(backend.memory.vram, backend.memory.ram),
        limits=GroupLimits(backend.limits.memory, backend.limits.pids),
        pinned=backend.pinned,
        max_wait_s=backend.max_wait,
        min_residence_s=backend.min_residence,
        env=dict(backend.env),
        cwd=resolver.path(backend.cwd, (*at, "cwd")),
        nice=backend.nice,
        oom_score_adj=backend.oom_score_adj,
        canary_every_s=backend.canary.every,
        canary_token=backend.canary.token,
    )


def _llama_cpp(spec: BackendSpec, backend: LlamaCppSettings, at: Path, resolver: Resolver) -> BackendSpec:
    return replace(
        spec,
        model=EMBEDDED if backend.model == EMBEDDED else resolver.path(backend.model, (*at, "model")),
        binary=resolver.program(backend.binary, (*at, "binary")),
        footprint=Footprint(
            context=backend.context,
            cache_type=backend.cache_type,
            gpu_layers=None if backend.gpu_layers == AUTO_LAYERS else backend.gpu_layers,
            batch=backend.batch,
        ),
        rungs=_rungs([_llama_cpp_rung(rung) for rung in backend.ladder or ()], backend.ladder),
        tensor_split=tuple(map(float, backend.tensor_split)),
        threads=backend.threads,
        embeddings=backend.embeddings,
        chat_template_file=resolver.path(backend.chat_template, (*at, "chat_template")),
        args=tuple(backend.args),
    )


def _vllm(spec: BackendSpec, backend: VllmSettings, at: Path, resolver: Resolver) -> BackendSpec:
    return replace(
        spec,
        model=resolver.path_or_name(backend.model, (*at, "model")),
        binary=resolver.program(backend.binary, (*at, "binary")),
        footprint=Footprint(
            context=backend.context,
            gpu_utilization=backend.gpu_memory_utilization,
            sequences=backend.max_num_seqs or backend.slots,
        ),
        rungs=_rungs([_vllm_rung(rung) for rung in backend.ladder or ()], backend.ladder),
        threads=backend.threads,
        chat_template_file=resolver.path(backend.chat_template, (*at, "chat_template")),
        args=tuple(backend.args),
        vllm=VllmOptions(
            dtype=backend.dtype or "",
            quantization=backend.quantization or "",
            kv_cache_memory=backend.kv_cache_memory,
            tensor_parallel=backend.tensor_parallel,
            enforce_eager=backend.enforce_eager,
            prefix_caching=backend.prefix_caching,
        ),
    )


def _command(spec: BackendSpec, backend: CommandSettings, at: Path, resolver: Resolver) -> BackendSpec:
    program, *arguments = backend.command or [""]
    return replace(
        spec,
        model=resolver.path_or_name(backend.model, (*at, "model")),
        threads=backend.threads,
        command=CommandOptions(
            argv=(resolver.program(program, (*at, "command")), *arguments),
            health_path=backend.health.path,
            health_status=backend.health.status,
            stop=tuple(backend.stop),
            signatures=tuple(
                Signature(CauseKind(signature.kind), signature.words, signature.unless or "")
                for signature in backend.signatures
            ),
        ),
    )


def _remote(spec: BackendSpec, backend: RemoteSettings) -> BackendSpec:
    return replace(
        spec,
        life=replace(spec.life, breaker=backend.breaker.failures),
        remote=RemoteOptions(
            base_url=backend.url,
            key=backend.key or "",
            health_path=backend.health.path,
        ),
    )


# --- the ladder ------------------------------------------------------------------------------------------------------


def _rungs(rungs: Sequence[Rung], written: Sequence[object] | None) -> tuple[Rung, ...] | None:
    return None if written is None else tuple(rungs)


def _llama_cpp_rung(rung: LlamaCppRung) -> Rung:
    if rung.context is not None:
        return Rung(Shrink.CONTEXT, rung.context)
    if rung.gpu_layers is not None:
        return Rung(Shrink.GPU_LAYERS, rung.gpu_layers)
    return Rung(Shrink.CACHE_Q8)


def _vllm_rung(rung: VllmRung) -> Rung:
    if rung.context == FITTING:
        return Rung(Shrink.FITTING)
    if rung.context is not None:
        return Rung(Shrink.CONTEXT, rung.context)
    if rung.gpu_memory is not None:
        return Rung(Shrink.GPU_UTILIZATION, rung.gpu_memory)
    assert rung.sequences is not None, "the schema lets through rungs with exactly one key"
    return Rung(Shrink.SEQUENCES, rung.sequences)
