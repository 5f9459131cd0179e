"""`supctl events`."""

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import click

from supervisord.cli.supctl.client import Control, Query
from supervisord.cli.supctl.event_view import line
from supervisord.cli.supctl.failure import NotRunning, TimedOut
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import note, show, show_bytes
from supervisord.cli.supctl.wire import Doc
from supervisord.cli.supctl.wire_records import Event

LIMIT = 20
CATCH_UP = 1000  # events missed while the daemon restarted: far more than a restart makes
RETRY_S = 1.0


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones as they come, until Ctrl-C.")
@click.option(
    "-n", "--limit", metavar="N", type=click.IntRange(0, 1000), default=LIMIT, help=f"How many. Default: {LIMIT}."
)
@click.option("--backend", metavar="NAME", help="Only events of this backend.")
@json_option
@common_options
@session
def events(session: Session, *, follow: bool, limit: int, backend: str | None, as_json: bool) -> None:
    """Print what the daemon decided, and why."""
    query: Query = {"limit": limit, "backend": backend}
    screen = session.screen()
    if follow:
        emit = _print_raw if as_json else lambda doc: show([line(Event.read(doc), screen)])
        _follow(session.control(), query, emit)
        return
    answer = session.control().get("/v1/events", query)
    if as_json:
        show_bytes(answer.body)
    else:
        show(line(Event.read(each), screen) for each in answer.doc.each("events"))


def _print_raw(doc: Doc) -> None:
    show([json.dumps(doc.values)])


def _follow(control: Control, query: Query, emit: Callable[[Doc], None]) -> None:
    """Goes on over a restart of the daemon with the first event that was not told yet."""
    newest = control.get("/v1/events", {"limit": 1}).doc.each("events")
    last = Event.read(newest[0]).id if newest else 0
    told: deque[Event] = deque(maxlen=CATCH_UP)
    while True:
        try:
            with control.lines("/v1/events", {**query, "follow": 1}, follow=True) as received:
                for raw in received:
                    last = max(last, _tell(raw, told, emit))
        except (NotRunning, TimedOut):
            note("the daemon went away, waiting for it …")
        query = {**query, "after": last, "limit": CATCH_UP}
        _await_daemon(control)


def _tell(raw: bytes, told: deque[Event], emit: Callable[[Doc], None]) -> int:
    """Emit an event unless it is among those told; its number in the store, or 0 where it is too new to have one."""
    doc = _event(raw)
    if doc is None:
        return 0
    event = Event.read(doc)
    unnumbered = replace(event, id=0)  # told while it happened, it had no number; read from the store it has
    if unnumbered not in told:
        told.append(unnumbered)
        emit(doc)
    return event.id


def _event(raw: bytes) -> Doc | None:
    try:
        value = json.loads(raw)
    except ValueError:  # an empty line that keeps the connection warm
        return None
    return Doc(value) if isinstance(value, dict) else None


def _await_daemon(control: Control) -> None:
    while True:
        time.sleep(RETRY_S)
        try:
            control.get("/v1/version")
        except (NotRunning, TimedOut):
            continue
        return
