"""Answers of a daemon, as its control door documents them."""

from typing import Any

GIB = 2**30
AT = 1_795_000_000.0  # 2026-11-18 11:06:40 UTC

HOST: dict[str, Any] = {
    "pressure": "ok",
    "ram_total_bytes": 64 * GIB,
    "ram_available_bytes": int(32.8 * GIB),
    "swap_total_bytes": 16 * GIB,
    "swap_used_bytes": int(0.4 * GIB),
    "swap_in_bytes_per_s": 0.0,
    "swap_out_bytes_per_s": 0.0,
    "stall_some_percent": 0.0,
    "stall_full_percent": 0.0,
    "missing": [],
    "sample_age_s": 1.2,
}

GPU: dict[str, Any] = {
    "index": 0,
    "uuid": "GPU-11111111-2222-3333-4444-555555555555",
    "name": "NVIDIA GeForce RTX 4090",
    "state": "ok",
    "pressure": "ok",
    "vram_total_bytes": 24 * GIB,
    "vram_used_bytes": int(20.9 * GIB),
    "vram_free_bytes": int(3.1 * GIB),
    "utilization_ratio": 0.98,
    "temperature_c": 71.0,
    "power_w": 310.4,
    "sample_age_s": 0.4,
    "holders": [
        {"name": "Xorg", "pid": 1200, "used_bytes": int(0.5 * GIB), "ours": False},
        {"name": "llama3-70b", "pid": 41822, "used_bytes": int(20.1 * GIB), "ours": True},
    ],
}


def backend(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "runtime": "llama.cpp",
        "phase": "ready",
        "since_s": 7800.0,
        "pid": 41822,
        "port": 40001,
        "generation": 8,
        "models": [name],
        "model": "70B",
        "quantization": "Q4_K_M",
        "context_tokens": 12288,
        "context_reduced": False,
        "slots": 1,
        "in_flight": 0,
        "queued": 0,
        "tokens_per_second": None,
        "restarts": 0,
        "last_reason": "",
        "rung": 0,
        "rung_name": "as configured",
        "rung_why": "",
        "rungs": 3,
        "climb_in_s": None,
        "note": "",
        "rss_bytes": int(1.2 * GIB),
        "vram_bytes": int(20.1 * GIB),
        "next_start_in_s": None,
        "limits": {"memory_bytes": None, "pids": None},
        "group": None,
        "log": {"lines": 100, "cut_lines": 0, "dropped_bytes": 0, "degraded": ""},
        **changes,
    }


LLAMA = backend(
    "llama3-70b",
    context_reduced=True,
    in_flight=1,
    tokens_per_second=14.8,
    restarts=1,
    rung=1,
    note="rung 1 after GPU OOM (supctl events --backend llama3-70b)",
)
VLLM = backend(
    "extract-8b",
    runtime="vllm",
    phase="stopped",
    since_s=740.0,
    pid=None,
    port=None,
    model="8B AWQ",
    quantization="awq",
    context_tokens=8192,
    slots=16,
    queued=37,
    note="left for llama3-70b; 37 jobs wait, swap in at most 48 s",
    rss_bytes=None,
    vram_bytes=None,
)
CLOUD = backend(
    "cloud",
    runtime="remote",
    since_s=273_600.0,
    pid=None,
    model=None,
    quantization=None,
    context_tokens=None,
    slots=4,
    note="only when local backends cannot serve",
    rss_bytes=None,
    vram_bytes=None,
)

POOLS: list[dict[str, Any]] = [
    {"key": "host", "label": "host", "total_bytes": 64 * GIB, "free_bytes": int(32.8 * GIB), "reserve_bytes": 2 * GIB,
     "pressure": "ok", "problem": "", "foreign": [], "unexplained_bytes": 0,
     "holders": [{"backend": "llama3-70b", "standing": "resident", "held_bytes": int(1.2 * GIB),
                  "expected_bytes": 2 * GIB, "source": "configured"},
                 {"backend": "extract-8b", "standing": "waiting", "held_bytes": 0, "expected_bytes": 3 * GIB,
                  "source": "learned"}]},
    {"key": GPU["uuid"], "label": "gpu0", "total_bytes": 24 * GIB, "free_bytes": int(3.1 * GIB),
     "reserve_bytes": 2 * GIB, "pressure": "ok", "problem": "",
     "foreign": [{"pid": 1200, "name": "Xorg", "used_bytes": int(0.5 * GIB)},
                 *({"pid": 2000 + n, "name": "steam" if n else "", "used_bytes": 10 << 20} for n in range(6))],
     "unexplained_bytes": int(0.2 * GIB),
     "holders": [{"backend": "extract-8b", "standing": "waiting", "held_bytes": 0, "expected_bytes": 14 * GIB,
                  "source": "estimated"},
                 {"backend": "llama3-70b", "standing": "resident", "held_bytes": int(20.1 * GIB),
                  "expected_bytes": int(20.4 * GIB), "source": "learned"}]},
]  # fmt: skip

STATUS: dict[str, Any] = {
    "version": "0.3.0",
    "uptime_s": 273_700.0,
    "listen": "127.0.0.1:8411",
    "pid": 4711,
    "state": "running",
    "degraded": [],
    "queue": {"depth": 12, "limit": 512, "oldest_s": 41.3, "paused": None, "in_flight": 1},
    "jobs_today": {"done": 18204, "failed": 3},
    "host": HOST,
    "gpu_sensor": {"state": "ok", "problem": ""},
    "gpus": [GPU],
    "store": {"path": "/var/lib/llm-supervisord/jobs.sqlite", "size_bytes": 4096, "pending": 0, "problem": ""},
    "backends": [LLAMA, VLLM, CLOUD],
    "a_key_of_a_later_version": {"ignored": True},
}

TROUBLED: dict[str, Any] = {
    **STATUS,
    "state": "draining",
    "degraded": [
        "cgroup: the memory controller is not delegated; kernel OOM kills are told by the log. Set Delegate=memory pids"
    ],
    "queue": {"depth": 512, "limit": 512, "oldest_s": 3700.0, "paused": "host memory is critical", "in_flight": 0},
    "host": {
        **HOST,
        "pressure": "critical",
        "ram_available_bytes": GIB,
        "swap_in_bytes_per_s": 12.5 * 2**20,
        "swap_out_bytes_per_s": 130.0 * 2**20,
        "stall_some_percent": 43.6,
        "missing": ["no swap", "no OOM counter"],
        "sample_age_s": 64.0,
    },
    "gpu_sensor": {"state": "stale", "problem": "the driver has not answered for 42 s"},
    "gpus": [
        {**GPU, "state": "stale", "sample_age_s": 42.0, "pressure": "tight", "utilization_ratio": 0.0},
        {**GPU, "index": 1, "state": "lost", "problem": "it fell off the bus"},
        {**GPU, "index": 2, "name": "NVIDIA H200", "state": "failing", "temperature_c": None, "power_w": None,
         "utilization_ratio": None,
         "holders": [{"name": "", "pid": 70 + n, "used_bytes": None, "ours": False} for n in range(6)]},
    ],
    "store": {"path": "/var/lib/jobs.sqlite", "size_bytes": 4096, "pending": 900, "problem": "the disk is full"},
    "backends": [
        backend("parked-one", phase="parked", last_reason="the model file is cut off at byte 1048576", pid=None),
        backend("backing-off", phase="backoff", last_reason="killed by SIGSEGV", next_start_in_s=12.4, pid=None),
        backend("log-lost", log={"lines": 1, "dropped_bytes": 9, "degraded": "disk full"}, tokens_per_second=1234.5),
    ],
}  # fmt: skip

GROUP: dict[str, Any] = {
    "memory_bytes": int(1.1 * GIB), "memory_peak_bytes": int(1.9 * GIB), "memory_limit_bytes": 2 * GIB, "at_limit": 14,
    "oom_kills": 1, "stall_full_percent": 0.5, "pids": 23,
}  # fmt: skip

DETAILED: dict[str, Any] = {
    **STATUS,
    "groups": {"kind": "v1", "problem": "the pids controller is not there", "controllers": ["memory"]},
    "backends": [
        backend(
            "small", models=["small", "gpt-4o"], rung=1, rung_name="context x 0.5", climb_in_s=1500.0, restarts=1,
            rung_why="gpu0 is short of memory: 100 MiB are free", last_reason="killed by SIGSEGV",
            note="rung 1 (context x 0.5): gpu0 is short of memory: 100 MiB are free", group=GROUP,
            limits={"memory_bytes": 2 * GIB, "pids": 512},
            log={"lines": 1, "cut_lines": 2, "dropped_bytes": 4096, "degraded": "the disk is full"},
        ),
        backend("due", rung=2, rung_name="KV cache q8_0", climb_in_s=0.0, rungs=2,
                group={"pids": 1, "memory_bytes": 30 << 20, "at_limit": 0}, limits={"memory_bytes": None, "pids": 9}),
        backend("whole", rungs=1, limits={"memory_bytes": GIB, "pids": None}, group={"stall_full_percent": 0.0}),
        backend("gone", phase="parked", rungs=0, generation=0, models=[], log={}, last_reason="no smaller is left",
                note="no smaller is left"),
    ],
}  # fmt: skip

BARE: dict[str, Any] = {
    **STATUS,
    "queue": {"depth": 0, "limit": 512, "oldest_s": None, "paused": None, "in_flight": 0},
    "jobs_today": {"done": 0, "failed": 0},
    "host": None,
    "gpu_sensor": {"state": "absent", "problem": "no NVIDIA driver"},
    "gpus": [],
    "backends": [],
}

HELD: dict[str, Any] = {
    **STATUS,
    "pools": POOLS,
    "backends": [
        LLAMA,
        {**VLLM, "phase": "starting", "held": "waits for llama3-70b to finish its work",
         "note": "waits for llama3-70b to finish its work", "standing": "waiting"},
        CLOUD,
    ],
}  # fmt: skip

BROKEN_POOLS: dict[str, Any] = {
    **STATUS,
    "pools": [
        {"key": "host", "holders": [], "foreign": [], "reserve_bytes": GIB},
        {"key": GPU["uuid"], "label": "gpu0", "problem": "measured 42 s ago", "reserve_bytes": 0,
         "holders": [
             {"backend": "a", "standing": "leaving", "held_bytes": GIB, "expected_bytes": None, "source": "unknown"},
             {"backend": "b", "standing": "starting", "held_bytes": 0, "expected_bytes": GIB, "source": "estimated"},
             {"backend": "c", "standing": "waiting", "held_bytes": 0, "expected_bytes": None, "source": "unknown"}],
         "foreign": [{"pid": 77, "name": "", "used_bytes": None}], "unexplained_bytes": 0},
    ],
}  # fmt: skip

MODELS: dict[str, Any] = {
    "models": [
        {"name": "llama3", "aliases": ["gpt-4o", "chat"], "strategy": "priority", "default": True, "loaded": True,
         "queued": 12, "context_tokens": 12288, "quantization": "Q4_K - Medium",
         "backends": [
             {"name": "llama3-70b", "runtime": "llama.cpp", "phase": "ready", "loaded": True, "last_resort": False,
              "held": "", "context_tokens": 12288, "quantization": "Q4_K - Medium",
              "expected_vram_bytes": int(20.4 * GIB), "vram_source": "learned", "expected_ram_bytes": 2 * GIB,
              "ram_source": "configured", "expected_load_s": 41.0},
             {"name": "cloud", "runtime": "remote", "phase": "ready", "loaded": True, "last_resort": True, "held": "",
              "context_tokens": None, "quantization": None, "expected_vram_bytes": None, "vram_source": "unknown",
              "expected_ram_bytes": None, "ram_source": "unknown", "expected_load_s": None}]},
        {"name": "organization/extract-8b", "aliases": [], "strategy": "least_busy", "default": False,
         "loaded": False, "queued": 0, "context_tokens": 8192, "quantization": None,
         "backends": [
             {"name": "extract-8b", "runtime": "vllm", "phase": "stopped", "loaded": False, "last_resort": False,
              "held": "", "context_tokens": 8192, "quantization": None,
              "expected_vram_bytes": 14 * GIB, "vram_source": "estimated", "expected_ram_bytes": 0,
              "ram_source": "estimated", "expected_load_s": 30.0}]},
    ]
}  # fmt: skip

VERSION: dict[str, Any] = {
    "version": "0.3.0",
    "python": "3.11.7",
    "pid": 4711,
    "config": "/etc/llm-supervisord/config.yaml",
    "listen": "127.0.0.1:8411",
    "state_dir": "/var/lib/llm-supervisord",
    "socket": "/run/llm-supervisord/control.sock",
}


def attempt(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "backend": "llama3-70b",
        "generation": 7,
        "runtime": "llama.cpp",
        "rung": 0,
        "rung_name": "as configured",
        "rung_why": "",
        "hardware": "RTX 4090 24 GiB",
        "model": "Llama-3.3-70B-Instruct",
        "quantization": "Q4_K_M",
        "context_tokens": 16384,
        "template_hash": "0123456789abcdef",
        "build": "b6800",
        "started_at": AT + 3,
        "queue_wait_s": 3.1,
        "duration_s": 15.2,
        "ttft_s": 0.82,
        "tokens_in": 11870,
        "tokens_cached": 0,
        "tokens_out": 212,
        "tokens_per_second": 14.8,
        "http_status": 200,
        "status": "done",
        "reason": None,
        "detail": "",
        **changes,
    }


DIED = attempt(
    1,
    status="failed",
    reason="backend_out_of_memory",
    detail='"CUDA error: out of memory" on stderr; ended by SIGABRT',
    http_status=None,
    ttft_s=None,
    tokens_out=None,
    tokens_per_second=None,
)

JOB: dict[str, Any] = {
    "id": "7f3a0c11",
    "endpoint": "/v1/chat/completions",
    "model": "llama3",
    "priority": "normal",
    "stream": True,
    "client": "batch-cli",
    "status": "done",
    "reason": None,
    "detail": "",
    "submitted_at": AT,
    "finished_at": AT + 92.0,
    "queue_wait_s": 3.1,
    "max_tokens": 512,
    "temperature": 0.2,
    "backend": "llama3-70b",
    "attempts_count": 2,
    "attempts": [
        DIED,
        attempt(
            2, generation=8, rung=1, rung_name="context x 0.75", rung_why="GPU out of memory", context_tokens=12288
        ),
    ],
}

WAITING: dict[str, Any] = {
    **JOB,
    "id": "80000001",
    "status": "queued",
    "finished_at": None,
    "queue_wait_s": None,
    "backend": None,
    "attempts_count": 0,
    "attempts": [],
    "max_tokens": None,
    "temperature": None,
    "priority": 2,
}

FAILED: dict[str, Any] = {
    **JOB,
    "id": "6c000001",
    "status": "failed",
    "reason": "backend_hung",
    "detail": "no token for 120 s; the backend was killed and started again",
    "finished_at": AT + 130.5,
    "attempts_count": 1,
    "attempts": [],
}

EVENTS: list[dict[str, Any]] = [
    {"id": 1, "at": AT, "kind": "daemon.started", "message": "llm-supervisord 0.3.0 started", "backend": None,
     "generation": None, "job_id": None, "data": {}},
    {"id": 2, "at": AT + 60, "kind": "backend.exit", "message": "GPU out of memory: ended by SIGABRT",
     "backend": "llama3-70b", "generation": 7, "job_id": None, "data": {"signal": 6}},
    {"id": 3, "at": AT + 60.5, "kind": "backend.phase", "message": "llama3-70b is starting: it ran out of memory",
     "backend": "llama3-70b", "generation": 8, "job_id": None, "data": {}},
    {"id": 4, "at": AT + 61, "kind": "job.retry", "message": "run again on rung 1", "backend": "llama3-70b",
     "generation": None, "job_id": "7f3a0c11", "data": {}},
    {"id": 5, "at": None, "kind": "backend.orphans_killed", "message": "killed 2 workers of job 7f3a0c11",
     "backend": None, "generation": None, "job_id": "7f3a0c11", "data": {}},
]  # fmt: skip


def error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "supervisor_error", "code": code, "param": None}}


INCIDENT: dict[str, Any] = {
    "id": "i1m7yycvp60004drs",
    "at": AT + 60.0,
    "ended_at": AT + 72.5,
    "backend": "llama3-70b",
    "generation": 7,
    "kind": "exit",
    "cause": "gpu_oom",
    "headline": "llama3-70b ran out of GPU memory.",
    "summary": "GPU out of memory: CUDA error: out of memory",
    "permanent": False,
    "exit_status": -6,
    "outcome": "ready again on rung 1",
    "downtime_s": 12.5,
    "jobs_retried": 1,
    "jobs_failed": 0,
    "in_flight": ["7f3a0c11"],
    "story": {
        "headline": "llama3-70b ran out of GPU memory.",
        "parts": [
            {"title": "What happened", "lines": ["GPU out of memory: CUDA error: out of memory.",
             "It was start 7 of llama3-70b, at its full size, ended by signal 6 (SIGABRT), while it was ready."]},
            {"title": "What was done", "lines": ["+0.5 s  killed what was left", "Ready again on rung 1."]},
            {"title": "What to do", "lines": ["If it came back smaller, you need do nothing."]},
        ],
    },
    "verdict": [
        {"rule": "kernel_oom", "matched": False, "because": "no kill was counted"},
        {"rule": "gpu_oom", "matched": True, "because": "CUDA error: out of memory"},
    ],
    "steps": [{"at": AT + 60.5, "what": "killed what was left"}],
    "facts": {"rung": 0, "argv": ["llama-server", "--port", "40001"], "group": None},
    "log": ["llama_context: n_ctx = 16384", "CUDA error: out of memory"],
    "samples": [{"at": AT - 60.0}, {"at": AT + 60.0}],
}  # fmt: skip

HUNG: dict[str, Any] = {
    **INCIDENT,
    "id": "i1m7yxx0060004abc",
    "at": AT,
    "ended_at": None,
    "backend": "extract-8b",
    "kind": "hang",
    "cause": "hang",
    "headline": "extract-8b hung and was killed.",
    "summary": "killed because it no longer answered",
    "jobs_failed": 3,
}

_LEFT = {**HUNG, "id": "i1m7yww0060004def", "kind": "evicted", "cause": None, "ended_at": AT + 1.0, "jobs_failed": 0,
         "summary": "gpu0 is short of memory", "downtime_s": 1.0}  # fmt: skip

INCIDENTS: dict[str, Any] = {"incidents": [INCIDENT, HUNG, _LEFT], "more": False, "recorded_since": AT}
NO_INCIDENTS: dict[str, Any] = {"incidents": [], "more": False, "recorded_since": AT}
