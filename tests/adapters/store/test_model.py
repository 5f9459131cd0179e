"""Any sequence of writes leaves SQLite and the store in memory with the same records, however it falls into groups."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord.adapters.store import SqliteStore
from supervisord.core.incident import Incident, IncidentKind
from supervisord.core.job import TERMINAL, FailureReason, JobStatus
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, JobRecord, JobResult
from supervisord.ports import IncidentFilter, JobFilter, JobStore
from tests.fakes.records import a_footprint, a_job, a_result, an_attempt, an_event, an_incident
from tests.fakes.store import MemoryStore

JOBS = ("a", "ab", "b", "c")
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
bodies = st.none() | st.binary(max_size=20)
numbers = st.integers(1, 3)
backends = st.sampled_from(["left", "right"])
times = st.floats(0, 4e9)

job_puts = st.builds(
    a_job,
    st.sampled_from(JOBS),
    model=st.sampled_from(["m", "n"]),
    submitted_at=times,
    body=bodies,
    max_tokens=st.none() | st.integers(0, 2**40),
    client=words,
)
starts = st.tuples(st.sampled_from(JOBS), numbers, backends, numbers)
attempts = st.builds(
    an_attempt,
    st.sampled_from(JOBS),
    numbers,
    backend=backends,
    status=st.sampled_from(sorted(TERMINAL)),
    reason=st.none() | st.sampled_from(FailureReason),
    detail=words,
    build=st.none() | words,
)
results = st.builds(
    a_result,
    st.sampled_from(JOBS),
    st.sampled_from(sorted(TERMINAL)),
    finished_at=times,
    attempts=numbers,
    backend=st.none() | backends,
    reason=st.none() | st.sampled_from(FailureReason),
    detail=words,
    output=bodies,
)
events = st.builds(
    an_event, words, at=times, backend=st.none() | backends, detail=st.none() | words | st.integers(0, 9)
)
sizes = st.none() | st.integers(0, 2**62)
footprints = st.builds(
    a_footprint,
    st.sampled_from(["x", "y"]),
    backend=backends,
    at=times,
    vram=sizes,
    ram=sizes,
    load_s=st.none() | st.floats(0, 1e6),
)
incidents = st.builds(
    an_incident,
    st.sampled_from(["i", "ij", "k"]),
    backend=backends,
    kind=st.sampled_from(IncidentKind),
    at=times,
    in_flight=st.lists(st.sampled_from(JOBS), unique=True).map(tuple),
    ended_at=st.none() | times,
    log=st.lists(words, max_size=3).map(tuple),
    facts=st.dictionaries(words, words | st.integers(0, 9) | st.none(), max_size=2),
)
pauses = st.sampled_from(["flush", "look", "reopen"])
steps = st.lists(job_puts | starts | attempts | results | events | footprints | incidents | pauses, max_size=30)

Step = (
    JobRecord | AttemptRecord | JobResult | EventRecord | FootprintRecord | Incident | tuple[str, int, str, int] | str
)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_any_sequence_leaves_the_same_records(sequence: list[Step]) -> None:
    asyncio.run(compare(sequence))


async def compare(sequence: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        real = SqliteStore(Path(folder) / "jobs.db", keep_bodies=True, retention_s=None, now=lambda: 5e9)
        model = MemoryStore(now=lambda: 5e9)
        await real.open()
        await model.open()
        known: set[str] = set()
        try:
            for step in sequence:
                if isinstance(step, JobRecord):
                    known.add(step.id)
                if not isinstance(step, str):
                    # A job is put before its news: what becomes of news that came earlier in the same group is open.
                    if about(step) in known | {None}:
                        put(real, step)
                        put(model, step)
                elif step == "flush":
                    await real.flush()
                elif step == "look":
                    assert await everything(real) == await everything(model)
                else:
                    await real.close()
                    await model.close()
                    ours, theirs = await real.open(), await model.open()
                    assert (ours.abandoned, ours.jobs_total) == (theirs.abandoned, theirs.jobs_total)
            assert await everything(real) == await everything(model)
        finally:
            await real.close()


def about(step: Step) -> str | None:
    match step:
        case JobRecord():
            return step.id
        case AttemptRecord() | JobResult():
            return step.job_id
        case (str(job_id), *_):
            return job_id
        case _:
            return None


def put(store: JobStore, step: Step) -> None:
    match step:
        case JobRecord():
            store.put_job(step)
        case AttemptRecord():
            store.put_attempt(step)
        case JobResult():
            store.put_result(step)
        case EventRecord():
            store.put_event(step)
        case FootprintRecord():
            store.put_footprint(step)
        case Incident():
            store.put_incident(step)
        case (str(job_id), int(number), str(backend), int(generation)):
            store.put_attempt_started(job_id, number, backend, generation)


async def everything(store: JobStore) -> list[object]:
    found: list[object] = [await store.job(job_id) for job_id in ("ab", "b", "c", "zz")]
    filters = [JobFilter(), JobFilter(limit=1), JobFilter(since=2e9), JobFilter(after="b"), JobFilter(model="m")]
    filters += [JobFilter(backend="left"), *(JobFilter(status=status) for status in JobStatus)]
    filters += [JobFilter(status="failed", backend="right", since=1e9), JobFilter(status="done", model="n")]
    found += [list(await store.jobs(wanted)) for wanted in filters]
    found += [list(await store.events(after=after, limit=5)) for after in (None, 0, 3)]
    found += [list(await store.events(after=None, limit=5, backend="left"))]
    found += [list(await store.footprints())]
    found += [await store.incident(each) for each in ("i", "ij", "k", "zz")]
    hit = [IncidentFilter(), IncidentFilter(limit=1), IncidentFilter(job="b"), IncidentFilter(kind="hang")]
    hit += [IncidentFilter(backend="left", after="k"), IncidentFilter(since=2e9), IncidentFilter(job="a", since=1e9)]
    found += [list(await store.incidents(wanted)) for wanted in hit]
    found += [await store.counts_since(since) for since in (0.0, 2e9, 4e9)]
    return found
