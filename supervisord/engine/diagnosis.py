"""One look at a backend that seems to hang, before it is killed: whether it moves after all, and what it does."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from supervisord.core import hang, life
from supervisord.core.errors import ProbeError
from supervisord.core.hang import Look, Sign
from supervisord.engine.generation import Generation
from supervisord.ports import ON_DISK, RUNNING, Clock, Examiner, HealthProbe, ProcessFinding
from supervisord.runtimes.base import BackendSpec, Runtime

LIMIT_S = hang.DIAGNOSIS_S - 2.0  # for all of it: what was found by then must still be told in time
COUNTERS_S = 1.5  # for its counters, before and after
ASK_S = 4.0  # for what its server tells of itself
EXAMINE_S = 5.0  # for its processes; py-spy takes 0.1 to 2 s for one of vLLM's
SPAN_S = 2.0  # between two looks at its CPU time and its counters
ANSWER_BYTES = 16 * 1024  # of an answer that are kept: 100 slots of llama-server, without their prompts
PROCESSES = 16  # of a tree that are looked at: vLLM has three, and one for each further GPU
TOLD = 6  # of them that are told of in the evidence; all are in the facts


class Doubted(Protocol):
    """The backend that is looked at."""

    def post(self, event: life.Event) -> None: ...


class Diagnosis:
    """Posts `Computed` where it computes, and at its end, which is before `LIMIT_S`, `Diagnosed`."""

    def __init__(
        self,
        backend: Doubted,
        generation: Generation,
        look: Callable[[], Awaitable[Look]],
        glance: Callable[[], Awaitable[Look]],
        *,
        spec: BackendSpec,
        runtime: Runtime,
        clock: Clock,
        probe: HealthProbe,
        examiner: Examiner | None,
    ) -> None:
        self._backend = backend
        self._generation = generation
        self._look = look
        self._glance = glance
        self._spec = spec
        self._runtime = runtime
        self._clock = clock
        self._probe = probe
        self._examiner = examiner
        self._evidence: list[str] = []
        self._facts: dict[str, object] = {}
        self._findings: Sequence[ProcessFinding] = ()

    async def run(self, before: Look | None) -> None:
        """`before`: what was seen last, when it was not in doubt yet."""
        moved = False
        try:
            async with asyncio.timeout(LIMIT_S):
                moved = await self._find_out(before)
        except TimeoutError:
            self._evidence.append(f"the rest of the diagnosis did not end within {LIMIT_S:g} s")
        self._generation.diagnosis = {"at": self._clock.wall(), "moved": moved, **self._facts}
        self._backend.post(life.Diagnosed(self._generation.number, moved, tuple(self._evidence)))

    async def _find_out(self, before: Look | None) -> bool:
        """Whether it moves."""
        first = await self._glance()  # what its server tells comes beside, or not at all
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(self._whole_look(), name="diagnosis: its counters")
            group.create_task(self._ask(), name="diagnosis: its server")
            group.create_task(self._examine(), name="diagnosis: its processes")
            group.create_task(self._clock.sleep(SPAN_S), name="diagnosis: a while")
        first = replace(first, work=counting.result().work, kv_used=counting.result().kv_used)
        last = await self._whole_look()
        self._tell_figures(first, last)
        runnable = any(_wants_to_go_on(finding) for finding in self._findings)
        if Sign.MOVED in {hang.sign(before or first, last), hang.sign(first, last)}:
            return True
        if hang.sign(first, last, runnable=runnable) is Sign.COMPUTES:
            self._backend.post(life.Computed(self._generation.number))
        return False

    async def _whole_look(self) -> Look:
        try:
            async with asyncio.timeout(COUNTERS_S):
                return await self._look()
        except TimeoutError:
            return await self._glance()

    def _tell_figures(self, first: Look, last: Look) -> None:
        used, span = hang.cores(first, last), last.at - first.at
        if used is not None:
            self._evidence.append(f"its processes used {used:.2f} cores in {span:.1f} s")
        wanted = hang.keenest(first, last)
        if wanted is not None:
            self._evidence.append(f"its keenest thread ran, or waited for a processor, {min(wanted, 1.0):.0%} of them")
        if last.gpu is not None:
            self._evidence.append(f"its GPUs were {last.gpu:.0%} busy")
        if self._runtime.counters_path:
            told = "told no counters" if last.work is None else f"counted {last.work:g} before and after"
            if first.work is not None and last.work is not None and first.work != last.work:
                told = f"counted {first.work:g}, then {last.work:g}"
            self._evidence.append(f"{self._runtime.counters_path} {told}")
        self._facts |= {
            "span_s": span,
            "cores": used,
            "wanted_ratio": wanted,
            "gpu_ratio": last.gpu,
            "work": [first.work, last.work],
            "kv_used": [first.kv_used, last.kv_used],
            "silent_s": last.at - last.bytes_at,
        }

    async def _ask(self) -> None:
        path = self._runtime.diagnosis_path
        if not path:
            return
        try:
            answer = await self._probe.get(self._generation.address, path, min(ASK_S, LIMIT_S / 2))
        except ProbeError as error:
            self._evidence.append(error.message)
            self._facts["answer"] = {"path": path, "problem": error.message}
            return
        self._evidence.append(f"{path} answered with status {answer.status}")
        self._facts["answer"] = {"path": path, "status": answer.status, "told": _without_texts(answer.body)}

    async def _examine(self) -> None:
        pids = self._generation.usage.pids[:PROCESSES] if self._generation.usage is not None else ()
        if self._examiner is None or not pids:
            return
        self._findings = await self._examiner.examine(pids, EXAMINE_S)
        self._evidence += [_told(finding) for finding in self._findings[:TOLD]]
        self._facts["processes"] = [_facts_of(finding) for finding in self._findings]


def _wants_to_go_on(finding: ProcessFinding) -> bool:
    return any(place == RUNNING or place.startswith(ON_DISK) for place in finding.threads)


def _told(finding: ProcessFinding) -> str:
    waits = ", ".join(f"{count} in {where}" for where, count in sorted(finding.threads.items(), key=lambda i: -i[1]))
    return f"process {finding.pid} ({finding.name}) is in state {finding.state}" + (f": {waits}" if waits else "")


def _facts_of(finding: ProcessFinding) -> Mapping[str, object]:
    return {
        "pid": finding.pid,
        "name": finding.name,
        "state": finding.state,
        "cpu_s": finding.cpu_s,
        "threads": dict(finding.threads),
        "stack": finding.stack,
        "problem": finding.problem,
    }


def _without_texts(body: bytes) -> object:
    """What a server tells of itself, in figures: a text could be of somebody's prompt."""
    with suppress(ValueError, RecursionError):
        return _figures(json.loads(body[: 16 * ANSWER_BYTES])) if body.lstrip()[:1] in {b"[", b"{"} else _samples(body)
    return None


def _figures(value: object) -> object:
    match value:
        case bool() | int() | float() | None:
            return value
        case list():
            return [_figures(item) for item in value[:100]]
        case dict():
            return {name: kept for name, item in value.items() if (kept := _figures(item)) not in (None, {}, [])}
        case _:
            return None


def _samples(body: bytes) -> list[str]:
    """The gauges and counters of a Prometheus text; its histograms are long."""
    lines = body[: 16 * ANSWER_BYTES].decode("utf-8", "replace").splitlines()
    kept = [line for line in lines if line and not line.startswith("#") and "_bucket{" not in line]
    size, bounded = 0, []
    for line in kept:
        size += len(line)
        if size > ANSWER_BYTES:
            break
        bounded.append(line)
    return bounded
