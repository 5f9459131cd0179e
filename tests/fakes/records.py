"""Records as the engine makes them, with what a test does not care about filled in."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from supervisord.core.exits import Judgement
from supervisord.core.incident import Cost, Incident, IncidentKind, Step
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import (
    AttemptRecord,
    BatchRecord,
    BatchStatus,
    EventKind,
    EventRecord,
    FileRecord,
    FootprintRecord,
    Identity,
    JobRecord,
    JobResult,
    Usage,
)
from supervisord.core.terms import Origin, Terms


def a_job(
    number: int | str,
    *,
    model: str = "qwen",
    submitted_at: float = 1000.0,
    body: bytes | None = None,
    max_tokens: int | None = 100,
    client: str = "editor",
) -> JobRecord:
    return JobRecord(
        id=number if isinstance(number, str) else job_id(number),
        endpoint="/v1/chat/completions",
        model=model,
        priority=1,
        stream=True,
        client=client,
        submitted_at=submitted_at,
        max_tokens=max_tokens,
        temperature=0.25,
        body=body,
    )


def job_id(number: int) -> str:
    """Ids whose order is that of their numbers."""
    return f"job-{number:08d}"


def an_attempt(
    job: int | str,
    number: int = 1,
    *,
    backend: str = "left",
    status: JobStatus = JobStatus.DONE,
    reason: FailureReason | None = None,
    detail: str = "",
    build: str | None = "b6000",
) -> AttemptRecord:
    return AttemptRecord(
        job_id=job if isinstance(job, str) else job_id(job),
        number=number,
        backend=backend,
        generation=3,
        runtime="llama.cpp",
        rung=1,
        hardware="2x RTX 3090",
        identity=Identity(model="qwen", quantization="Q4_K_M", context_length=8192, build=build),
        started_at=1000.5,
        queue_wait_s=0.5,
        duration_s=2.25,
        ttft_s=0.125,
        usage=Usage(tokens_in=12, tokens_out=34, tokens_per_second=56.5),
        http_status=200,
        status=status,
        reason=reason,
        detail=detail,
        bytes_out=789,
        rung_name="context x 0.5",
        rung_why="GPU out of memory",
    )


def a_result(
    job: int | str,
    status: JobStatus = JobStatus.DONE,
    *,
    finished_at: float = 1003.0,
    attempts: int = 1,
    backend: str | None = "left",
    reason: FailureReason | None = None,
    detail: str = "",
    output: bytes | None = None,
) -> JobResult:
    return JobResult(
        job_id=job if isinstance(job, str) else job_id(job),
        status=status,
        finished_at=finished_at,
        queue_wait_s=0.5,
        attempts=attempts,
        reason=reason,
        detail=detail,
        backend=backend,
        output=output,
    )


def a_footprint(
    key: str,
    *,
    backend: str = "left",
    at: float = 1000.0,
    vram: int | None = 14 * 2**30,
    ram: int | None = 2**30,
    load_s: float | None = 12.5,
) -> FootprintRecord:
    return FootprintRecord(key=key, backend=backend, at=at, vram=vram, ram=ram, load_s=load_s)


def an_event(
    message: str, *, at: float = 1000.0, backend: str | None = None, kind: EventKind = EventKind.PHASE, **data: object
) -> EventRecord:
    return EventRecord(at=at, kind=kind, message=message, backend=backend, generation=2, job_id=None, data=data)


def incident_id(number: int) -> str:
    """Ids whose order is that of their numbers."""
    return f"inc-{number:08d}"


def an_incident(
    number: int | str,
    *,
    backend: str = "left",
    kind: IncidentKind = IncidentKind.EXIT,
    at: float = 1000.0,
    in_flight: tuple[str, ...] = ("job-00000001", "job-00000002"),
    ended_at: float | None = 1012.5,
    log: tuple[str, ...] = ("loading", "CUDA error: out of memory"),
    samples: tuple[Mapping[str, object], ...] = ({"at": 990.0, "host": {"available": 5}}, {"at": 1000.5}),
    facts: Mapping[str, object] = MappingProxyType({"rung": 1, "argv": ["llama-server", "--port", "1"]}),
) -> Incident:
    return Incident(
        id=number if isinstance(number, str) else incident_id(number),
        at=at,
        backend=backend,
        kind=kind,
        summary="GPU out of memory: CUDA error: out of memory",
        generation=3,
        cause="gpu_oom",
        permanent=False,
        status=-6,
        verdict=(Judgement("kernel OOM", matched=False, because="no kill counted"), Judgement("log", True, "words")),
        log=log,
        in_flight=in_flight,
        facts=facts,
        samples=samples,
        steps=(Step(1000.5, "killed what was left"), Step(1001.0, "started on rung 1")),
        ended_at=ended_at,
        outcome="ready again on rung 1 after 12 s",
        cost=Cost(downtime_s=12.5, jobs_retried=1, jobs_failed=1),
    )


def a_line(
    number: int,
    *,
    batch: str = "batch-1",
    model: str = "qwen",
    priority: int = 2,
    client: str = "editor",
    body: bytes | None = b'{"a": 1}',
    **terms: object,
) -> JobRecord:
    """A line of a batch; its id and its line are its number."""
    agreed = {"origin": Origin.BATCH, "batch": batch, "line": number, "custom_id": f"c{number}", **terms}
    return replace(
        a_job(number, model=model, client=client, body=body),
        priority=priority,
        terms=Terms(**agreed),  # type: ignore[arg-type] # whatever a test wants to say
    )


def a_durable_job(
    number: int | str,
    *,
    model: str = "qwen",
    priority: int = 1,
    client: str = "editor",
    submitted_at: float = 1000.0,
    body: bytes | None = b'{"a": 1}',
    origin: Origin = Origin.JOB,
    **terms: object,
) -> JobRecord:
    return replace(
        a_job(number, model=model, client=client, submitted_at=submitted_at, body=body),
        priority=priority,
        terms=Terms(origin, **terms),  # type: ignore[arg-type] # whatever a test wants to say
    )


def a_batch(number: int, status: BatchStatus = BatchStatus.IN_PROGRESS, **more: object) -> BatchRecord:
    told = {
        "id": f"batch-{number}",
        "door": "openai",
        "endpoint": "/v1/chat/completions",
        "client": "editor",
        "created_at": 1000.0 + number,
        "expires_at": 90_000.0,
        "status": status,
        "at": {BatchStatus.VALIDATING: 1000.0, status: 1500.0},
        "input_file": f"file-{number}",
        "completion_window": "24h",
        "metadata": {"who": "nightly"},
        **more,
    }
    return BatchRecord(**told)  # type: ignore[arg-type] # whatever a test wants to say


def a_file(number: int, **more: object) -> FileRecord:
    told = {
        "id": f"file-{number}",
        "filename": "lines.jsonl",
        "purpose": "batch",
        "bytes": 12,
        "created_at": 1000.0 + number,
        "client": "editor",
        **more,
    }
    return FileRecord(**told)  # type: ignore[arg-type] # whatever a test wants to say
