"""What an export takes out of the events around an incident. On the whole daemon."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore
from tests.fakes.daemon import Daemon, running, stubbed
from tests.fakes.records import an_event, an_incident, incident_id

pytestmark = pytest.mark.e2e

BEGAN = 1_000_000.0 * (time.time() // 1_000_000.0 - 1)  # noqa: TID251 - within the retention of a real daemon
OPENER = "srv  params_from_: Parsing input with format Content-only: Dear diary,"


async def remember(daemon: Daemon) -> None:
    """A crash loop: of each crash the summary and the events quote the last line of its log, part of a prompt."""
    store = SqliteStore(
        daemon.folder / "state" / "jobs.sqlite3", keep_bodies=True, retention_s=None, now=lambda: 2000.0
    )
    await store.open()
    for number, last in enumerate(("Anna never knew of it", "Bob has told his wife", "Carl is in love again")):
        at = BEGAN + 1000.0 + 100.0 * number
        crash = an_incident(number, at=at, ended_at=at + 10.0, log=(OPENER, "we met in Paris", last))
        store.put_incident(replace(crash, summary=f"ended by status 1: {last}"))
        store.put_event(an_event(f"left: ready -> restarting: ended by status 1: {last}", at=at, backend="left"))
    far = an_incident(3, at=BEGAN + 9000.0, ended_at=BEGAN + 9001.0, log=(OPENER, "left: ready"))
    store.put_incident(far)
    await store.close()


async def test_events_are_exported_without_the_prompts_that_other_incidents_quote(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {"backends": {"left": stubbed(tmp_path, autostart=False)}})
    await remember(daemon)
    async with running(daemon):
        export = await daemon.control("GET", f"/v1/incidents/{incident_id(1)}/export")
    text = json.dumps(export)
    assert [name for name in ("Anna", "Bob", "Paris", "diary") if name in text] == []
    messages = [event["message"] for event in export["events"]]
    assert messages[:2] == ["left: ready -> restarting: ended by status 1: [removed]"] * 2
    assert export["incident"]["summary"] == "ended by status 1: [removed]"
    assert "Carl" not in text  # 100 s later: beyond the events, and so beyond the incidents that were asked for
