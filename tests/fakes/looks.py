"""How tests look into a store."""

from supervisord.core.record import KeyRecord
from supervisord.core.terms import Flow
from supervisord.ports import Store, StoredJob
from tests.fakes.records import job_id

MUCH = 10**9
KEY = KeyRecord(client="editor", key="k1", digest="d1", job_id=job_id(1), at=1000.0)


async def found(store: Store, number: int) -> StoredJob:
    stored = await store.job(job_id(number))
    assert stored is not None
    return stored


async def ids_waiting(store: Store, flow: Flow, after: str = "", limit: int = 100, most_bytes: int = MUCH) -> list[str]:
    waiting = await store.waiting(flow, after=after, limit=limit, most_bytes=most_bytes)
    return [stored.job.id for stored in waiting]
