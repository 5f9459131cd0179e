"""Both kinds of store, for what every store promises."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore
from supervisord.ports import Store
from tests.fakes.store import MemoryStore

NOW = 2000.0


@pytest.fixture(params=["sqlite", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock() -> list[float]:
    """Its one item is the time."""
    return [NOW]


@pytest.fixture
def make(kind: str, tmp_path: Path, clock: list[float]) -> Callable[[bool], Store]:
    def made(keep_bodies: bool) -> Store:
        if kind == "memory":
            return MemoryStore(keep_bodies=keep_bodies, now=lambda: clock[0])
        return SqliteStore(tmp_path / "jobs.db", keep_bodies=keep_bodies, retention_s=None, now=lambda: clock[0])

    return made


@pytest.fixture
async def store(make: Callable[[bool], Store]) -> AsyncIterator[Store]:
    store = make(True)
    recovery = await store.open()
    assert (recovery.abandoned, recovery.jobs_total) == (0, 0)
    yield store
    await store.close()


@pytest.fixture
async def store_without_bodies(make: Callable[[bool], Store]) -> AsyncIterator[Store]:
    store = make(False)
    await store.open()
    yield store
    await store.close()
