"""Incidents on disk: bounded in size and number, found without a walk, safe once flushed."""

import asyncio
import sqlite3
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, incidents, queries, transaction
from supervisord.adapters.store.group import Group, Profiles
from supervisord.core.exits import Judgement
from supervisord.core.incident import Incident, IncidentKind, Step
from supervisord.ports import IncidentFilter
from tests.fakes.records import a_footprint, an_incident, incident_id

PUTS_UNTIL_KILLED = """
import asyncio, pathlib, sys
from supervisord.adapters.store import SqliteStore
from tests.fakes.records import an_incident

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]), keep_bodies=True, retention_s=None, now=lambda: 1.0)
    await store.open()
    number = 0
    while True:
        store.put_incident(an_incident(number, ended_at=None))
        store.put_incident(an_incident(number))
        await store.flush()
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_what_was_flushed_survives_kill_9(path: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUTS_UNTIL_KILLED, path, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    async with asyncio.timeout(30):
        for _ in range(20):
            await program.stdout.readline()
        program.kill()
        left, _ = await program.communicate()
    last = int((["19", *left.decode().split("\n")[:-1]])[-1])
    store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 1.0)
    await store.open()
    for number in range(last + 1):
        assert await store.incident(incident_id(number)) == an_incident(number)
    await store.close()


# --- the bound of one ------------------------------------------------------------------------------------------------


def stored_size(path: Path) -> int:
    connection = sqlite3.connect(path)
    size: int = connection.execute("SELECT max(length(body)) FROM incident_evidence").fetchone()[0]
    connection.close()
    return size


async def told(store: SqliteStore, incident: Incident) -> Incident:
    store.put_incident(incident)
    found = await store.incident(incident.id)
    assert found is not None
    return found


async def test_an_incident_as_large_as_allowed_is_kept_whole(store: SqliteStore) -> None:
    line = "x" * (incidents.MOST_EVIDENCE - len(b'{"log":[""],"samples":[],"facts":{}}'))
    whole = an_incident(1, log=(line,), samples=(), facts={})
    assert await told(store, whole) == whole


async def test_the_oldest_samples_go_first(store: SqliteStore) -> None:
    samples = tuple({"at": float(number), "filler": "y" * 1000} for number in range(1500))
    found = await told(store, an_incident(1, samples=samples, facts={"rung": 1}))
    assert found.log == an_incident(1).log
    assert 900 < len(found.samples) < 1050
    assert found.samples == samples[-len(found.samples) :]
    assert found.facts == {"rung": 1, "cut": {"samples": 1500 - len(found.samples)}}


async def test_then_the_oldest_lines_and_the_largest_facts(store: SqliteStore, path: Path) -> None:
    log = tuple(f"{number} {'z' * 10_000}" for number in range(200))
    facts = {"rung": 2, "diagnosis": "d" * 2_000_000, "argv": ["a" * 300_000]}
    samples = ({"s": "x" * 20_000},) * 2
    found = await told(store, an_incident(1, log=log, facts=facts, samples=samples))
    assert found.log == log[-len(found.log) :]
    assert 50 < len(found.log) < 100
    assert found.samples == ()
    left_out = {"samples": 2, "log_lines": 200 - len(found.log), "facts": ["diagnosis"]}
    assert found.facts == {"rung": 2, "argv": facts["argv"], "cut": left_out}
    assert stored_size(path) < incidents.MOST_EVIDENCE


@pytest.mark.parametrize("size", [100, 1_000_000, 3_000_000])
def test_no_evidence_is_larger_than_the_bound(size: int) -> None:
    for facts, log, samples in product((0, size), (0, size), (0, size)):
        incident = an_incident(
            1, facts={"f" * 100: "\x00" * facts}, log=("é" * log, "last"), samples=({"s": "\\" * samples},) * 3
        )
        assert len(incidents.pack(incident).evidence) <= incidents.MOST_EVIDENCE


async def test_more_jobs_than_any_server_has_slots(store: SqliteStore) -> None:
    jobs = tuple(f"job-{number:08d}" for number in range(1500))
    found = await told(store, an_incident(1, in_flight=jobs, facts={}))
    assert (found.in_flight, found.facts) == (jobs[:1000], {"cut": {"jobs_in_flight": 500}})
    assert (await store.incidents(IncidentFilter(job=jobs[999])))[0].id == found.id
    assert await store.incidents(IncidentFilter(job=jobs[1000])) == []


def test_states_that_are_replaced_do_not_count_as_waiting() -> None:
    """An incident is put again and again while it is followed; only its last state waits to be written."""
    group = Group(Profiles())
    packed = [incidents.pack(an_incident(1, log=("x" * size,))) for size in (5000, 10, 3000)]
    for each in packed:
        group.incident(incident_id(1), each)
    group.incident(incident_id(2), packed[0])
    assert group.body_bytes == len(packed[2].evidence) + len(packed[0].evidence)
    assert len(group.rows().incidents) == len(group.rows().incident_evidence) == 2


# --- what cannot be kept as it is ------------------------------------------------------------------------------------


async def test_what_json_does_not_know_is_kept_as_words(store: SqliteStore) -> None:
    facts: dict[str, object] = {"path": Path("/x"), "nan": float("nan"), "bad": "\ud800", "huge": 2**80, "n": {1: [2]}}
    found = await told(store, an_incident(1, facts=facts, log=("\udcff!",)))
    assert found.facts == {
        "path": "PosixPath('/x')", "nan": None, "bad": "\\ud800", "huge": str(2**80), "n": {"1": [2]},
    }  # fmt: skip
    assert found.log == ("\\udcff!",)


async def test_words_that_are_no_unicode_do_not_lose_an_incident(store: SqliteStore) -> None:
    """Alone in its statement, or in a group with what has to be saved record by record."""
    wrong = Incident(
        "odd", 1.0, "le\udcffft", IncidentKind.EXIT, "ended: \ud800", verdict=(Judgement("r\ud800", True, "b"),),
        steps=(Step(1.0, "s\ud800"),), in_flight=("j\ud800", "k"), facts={"x": 2**70},
    )  # fmt: skip
    store.put_incident(wrong)
    store.put_incident(an_incident(1))
    store.put_footprint(a_footprint("x"))
    found = await store.incident("odd")
    assert found is not None
    assert (found.backend, found.summary) == ("le\\udcffft", "ended: \\ud800")
    assert (found.verdict[0].rule, found.steps[0].what, found.in_flight) == ("r\\ud800", "s\\ud800", ("j\\ud800", "k"))
    assert await store.incidents(IncidentFilter(job="k")) != []
    assert await store.incident(incident_id(1)) == an_incident(1)
    assert len(await store.footprints()) == 1


@pytest.mark.parametrize("body", [b"no zlib", incidents.compressed(b"no JSON")])
async def test_damaged_evidence_leaves_the_rest(store: SqliteStore, path: Path, body: bytes) -> None:
    store.put_incident(an_incident(1))
    await store.flush()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE incident_evidence SET body = ?", (body,))
    connection.close()
    found = await store.incident(incident_id(1))
    assert found is not None
    assert (found.summary, found.log) == (an_incident(1).summary, ())
    assert "damaged" in str(found.facts["unreadable"])


# --- their number ----------------------------------------------------------------------------------------------------


def counts(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    tables = ("incidents", "incident_evidence", "incident_jobs")
    found = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    connection.close()
    return found


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_the_oldest_beyond_a_number_go(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    monkeypatch.setattr(transaction, "MOST_INCIDENTS", 5)
    for number in range(12):
        store.put_incident(an_incident(number))
        if apart:
            await store.flush()
    found = await store.incidents(IncidentFilter())
    assert [incident.id for incident in found] == [incident_id(number) for number in (11, 10, 9, 8, 7)]
    assert counts(path) == [5, 5, 10]


async def test_what_is_older_than_the_retention_is_forgotten(path: Path) -> None:
    store = SqliteStore(path, keep_bodies=True, retention_s=500.0, now=lambda: 10_000.0)
    await store.open()
    for number in range(10):
        store.put_incident(an_incident(number, at=9000.0 + 100.0 * number))
    await store.flush()
    assert store._parts is not None
    writer = store._parts.writer
    async with asyncio.timeout(10):
        while counts(path) != [5, 5, 10]:
            writer._pruner._next = 0.0
            await store.flush()
    assert [incident.at for incident in await store.incidents(IncidentFilter())] == [9900, 9800, 9700, 9600, 9500]
    await store.close()


# --- finding them ----------------------------------------------------------------------------------------------------


async def test_no_listing_sorts_or_reads_the_evidence(store: SqliteStore, path: Path) -> None:
    plain = [None, "x"]
    for backend, job, kind, after in product(plain, plain, plain, plain):
        for since in (None, 1.0):
            wanted = IncidentFilter(backend=backend, job=job, kind=kind, after=after, since=since)
            steps = plan_of(path, wanted)
            assert not [step for step in steps if "TEMP B-TREE" in step or "evidence" in step], (wanted, steps)
            narrowed = backend or job or after or since
            scans = [] if narrowed else ["SCAN incidents"]
            assert [step for step in steps if step.startswith("SCAN")] == scans, (wanted, steps)
            assert any("incident_jobs_job" in step for step in steps) == (job is not None), (wanted, steps)


def plan_of(path: Path, wanted: IncidentFilter) -> list[str]:
    asked: list[str] = []
    connection = sqlite3.connect(path)
    connection.set_trace_callback(asked.append)
    queries.incidents(connection, wanted)
    connection.set_trace_callback(None)
    plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[-1]}")]
    connection.close()
    return plan
