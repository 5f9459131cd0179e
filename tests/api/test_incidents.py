"""What the control door tells of incidents, and what leaves the machine in an export. On the whole daemon."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore
from supervisord.core.exits import Judgement
from supervisord.core.incident import IncidentKind
from supervisord.core.job import FailureReason, JobStatus
from tests.fakes.daemon import ROOT, Daemon, running, stubbed
from tests.fakes.records import a_job, a_result, an_attempt, an_event, an_incident, incident_id, job_id

pytestmark = pytest.mark.e2e

SECRET = "hunter2-hunter2"
BEGAN = 1_000_000.0 * (time.time() // 1_000_000.0 - 1)  # noqa: TID251 - within the retention of a real daemon


async def remember(daemon: Daemon) -> None:
    """What an earlier life of the daemon left in its store."""
    store = SqliteStore(
        daemon.folder / "state" / "jobs.sqlite3", keep_bodies=True, retention_s=None, now=lambda: 2000.0
    )
    await store.open()
    hit = replace(
        an_incident(1, at=BEGAN + 1000.0, in_flight=(job_id(1), job_id(2)), ended_at=BEGAN + 1012.5),
        log=(f"starting with --api-key {SECRET}", "CUDA error: out of memory", "prompt: 'my diary'"),
        facts={"argv": ["/home/anna/llama-server", "--api-key", SECRET], "env": {"HF_TOKEN": SECRET}},
        verdict=(Judgement("gpu_oom", True, "its log says: CUDA error: out of memory"),),
    )
    store.put_incident(hit)
    store.put_incident(an_incident(2, backend="right", kind=IncidentKind.HANG, at=BEGAN + 5000.0, in_flight=()))
    for number, backend in enumerate(("left", "right", None)):
        store.put_event(an_event(f"near {number}", at=BEGAN + 1005.0 + number, backend=backend, token=SECRET))
    store.put_event(an_event("far", at=BEGAN + 9000.0, backend="left"))
    store.put_job(a_job(1, submitted_at=BEGAN, body=b"my diary"))
    store.put_attempt(
        an_attempt(1, status=JobStatus.FAILED, reason=FailureReason.BACKEND_OUT_OF_MEMORY, detail="it ran out")
    )
    store.put_attempt(an_attempt(1, 2, backend="right"))
    store.put_result(a_result(1, attempts=2, finished_at=BEGAN + 3.0))
    await store.close()


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path, {"backends": {"left": stubbed(tmp_path, autostart=False)}})
    await remember(daemon)
    async with running(daemon):
        yield daemon


async def supctl(daemon: Daemon, *arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisord.cli.supctl", "--socket", str(daemon.socket), *arguments,
        cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_door_lists_tells_and_exports(daemon: Daemon) -> None:
    async def ids(query: str) -> list[str]:
        found = await daemon.control("GET", f"/v1/incidents{query}")
        return [incident["id"] for incident in found["incidents"]]

    first, second = incident_id(1), incident_id(2)
    assert await ids("") == [second, first]
    assert await ids("?backend=left") == await ids(f"?job={job_id(1)}") == await ids("?kind=exit") == [first]
    assert await ids(f"?since={BEGAN + 4000}") == await ids("?limit=1") == [second]
    assert await ids(f"?after={second}&limit=1") == [first]
    listed = await daemon.control("GET", "/v1/incidents?limit=1")
    assert (listed["more"], listed["recorded_since"]) == (True, BEGAN + 1005.0)
    assert listed["incidents"][0]["headline"] == "right hung and was killed."
    assert {"log", "samples", "facts", "story"} & listed["incidents"][0].keys() == set()

    for query, words in (
        ("kind=odd", "must be one of exit, hang"),
        ("since=x", "seconds"),
        ("limit=0", "limit must be"),
    ):
        refused = await daemon.control("GET", f"/v1/incidents?{query}")
        assert words in refused["error"]["message"]

    whole = await daemon.control("GET", "/v1/incidents/inc-00000001")
    assert whole["log"][0] == f"starting with --api-key {SECRET}"  # whoever may use this door may read the log anyway
    assert whole["story"]["parts"][0]["title"] == "What happened"
    assert whole["verdict"][0] == {
        "rule": "gpu_oom", "matched": True, "because": "its log says: CUDA error: out of memory",
    }  # fmt: skip
    assert (whole["exit_status"], whole["downtime_s"], whole["jobs_failed"]) == (-6, 12.5, 1)
    assert (await daemon.control("GET", "/v1/incidents/inc"))["error"]["code"] == "conflict"
    for path in ("nobody", "nobody/export"):
        missing = await daemon.control("GET", f"/v1/incidents/{path}")
        assert missing["error"]["code"] == "not_found"

    export = await daemon.control("GET", f"/v1/incidents/{first}/export")
    text = json.dumps(export)
    assert [word for word in (SECRET, "diary", "anna") if word in text] == []
    assert export["format"] == 1
    assert export["daemon"]["name"] == "llm-supervisord"
    assert export["machine"]["kernel"].startswith("Linux ")
    assert export["machine"]["host"]["ram_total_bytes"] > 0
    assert export["incident"]["facts"]["argv"] == ["~/llama-server", "--api-key", "[removed]"]
    assert "CUDA error: out of memory" in export["incident"]["log"]
    assert {"near 0", "near 2"} <= {event["message"] for event in export["events"]}
    assert {"near 1", "far"} & {event["message"] for event in export["events"]} == set()
    assert export["removed"]["secrets"] >= 5
    assert export["removed"]["prompts"] == export["removed"]["home folders"] == 1


async def test_supctl_tells_why(daemon: Daemon, tmp_path: Path) -> None:
    status, said = await supctl(daemon, "why")
    assert (status, said.startswith("2 incidents since ")) == (0, True)
    assert "1 time  left ran out of GPU memory. Then: " in said
    assert "The newest of them:\n\nright hung and was killed.\n" in said
    status, said = await supctl(daemon, "why", "left")
    assert status == 0
    assert said.startswith("left is ")
    assert "left ran out of GPU memory." in said
    assert "It shows GPU memory that was refused: its log says: CUDA error: out of memory." in said
    status, said = await supctl(daemon, "why", job_id(1))
    said = " ".join(said.split())
    assert status == 0
    assert "Attempt 1 on left (start 3) failed after 2.25 s: the backend ran out of memory: it ran out." in said
    hit = f"left ran out of GPU memory. GPU out of memory: CUDA error: out of memory. See: supctl why {incident_id(1)}"
    assert hit in said
    status, said = await supctl(
        daemon, "incidents", "export", incident_id(1), "--output", str(tmp_path / "report.json")
    )
    assert status == 0
    assert "secrets" in said
    written = tmp_path / "report.json"
    assert written.stat().st_mode & 0o777 == 0o600
    assert SECRET not in written.read_text()


async def test_nothing_is_told_where_nothing_went_wrong(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {"backends": {"left": stubbed(tmp_path, autostart=False)}})
    async with running(daemon):
        status, said = await supctl(daemon, "why", "left")
        assert status == 0
        assert "nothing went wrong with left since 20" in said
