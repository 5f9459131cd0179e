from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 2000.0)
    await store.open()
    yield store
    await store.close()
