"""What the control door does for the upkeep of the store."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from aiohttp.test_utils import make_mocked_request

from supervisord.adapters.store import SqliteStore
from supervisord.api import control_store
from supervisord.api.control_store import Upkeep


async def test_a_copy_has_no_name_while_it_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is cancelled at its end may not get to remove it."""
    state = tmp_path / "state"
    state.mkdir()
    store = SqliteStore(tmp_path / "jobs.sqlite3", keep_bodies=False, retention_s=None, now=lambda: 1000.0)
    await store.open()
    told: list[str] = []
    journal = SimpleNamespace(tell=lambda _, words, **more: told.append(words))
    supervisor: Any = SimpleNamespace(ports=SimpleNamespace(store=store), journal=journal)
    seen: list[tuple[list[Path], bytes]] = []

    async def leaves(_: object, file: BinaryIO) -> None:
        seen.append((list(state.iterdir()), file.read(15)))
        raise asyncio.CancelledError

    monkeypatch.setattr(control_store, "_sent", leaves)
    with pytest.raises(asyncio.CancelledError):
        await Upkeep(supervisor, state).backup(make_mocked_request("POST", "/v1/store/backup"))
    await store.close()
    assert seen == [([], b"SQLite format 3")]
    assert told == ["an operator made a backup of the store: 0 jobs"]
