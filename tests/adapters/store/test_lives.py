"""Two daemons on one store, which only happens where somebody deletes its lock: the earlier one writes no more."""

from pathlib import Path

from supervisord.adapters.store import SqliteStore
from tests.fakes.records import a_durable_job, a_result, job_id


async def test_an_earlier_life_cannot_touch_what_a_later_one_has_taken_over(store: SqliteStore, path: Path) -> None:
    await store.accept([a_durable_job(1), a_durable_job(2)])
    store.put_attempt_started(job_id(1), 1, "left", 1)
    await store.flush()
    path.with_name("jobs.db.lock").unlink()
    later = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 2000.0)
    assert (await later.open()).requeued == 1
    try:
        store.put_result(a_result(1, attempts=1, output=b"of the dead"))
        await store.flush()
        store.put_attempt_started(job_id(1), 2, "left", 1)
        store.put_requeued(job_id(1), 2, "by the dead")
        await store.flush()
        found = await later.job(job_id(1))
        assert found is not None
        assert (found.status, found.attempt, found.job.body) == ("queued", 1, b'{"a": 1}')
        later.put_attempt_started(job_id(1), 2, "right", 1)
        later.put_result(a_result(1, attempts=2, output=b"of the living"))
        await later.flush()
        store.put_result(a_result(1, attempts=9, output=b"of the dead"))
        await store.flush()
        found = await later.job(job_id(1))
        assert found is not None
        assert found.result == a_result(1, attempts=2, output=b"of the living")
    finally:
        await later.close()
