"""`supctl status`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from supervisord.cli.supctl.client import Answer, Control
from supervisord.cli.supctl.failure import Failure, NotRunning, TimedOut
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import Screen, note, show, show_bytes
from supervisord.cli.supctl.status_view import report
from supervisord.cli.supctl.wire import Status

WATCH_S = 2.0

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@json_option
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=WATCH_S,
    type=click.FloatRange(min=0.1, max=3600),
    default=None,
    help=f"Show it again every SECONDS ({WATCH_S:g}), until Ctrl-C.",
)
@common_options
@session
def status(session: Session, *, as_json: bool, watch: float | None) -> None:
    """Show the daemon, the memory and every backend."""
    control = session.control()
    if watch is not None:
        _watch(control, session.screen, every=watch, draw=_as_line if as_json else _as_report)
        return
    answer = control.get("/v1/status")
    if as_json:
        show_bytes(answer.body)
    else:
        show(_as_report(answer, session.screen()))


def _as_report(answer: Answer, screen: Screen) -> list[str]:
    return report(Status.read(answer.doc), screen)


def _as_line(answer: Answer, _: Screen) -> list[str]:
    return [json.dumps(answer.doc.values)]


def _watch(
    control: Control, screen: Callable[[], Screen], *, every: float, draw: Callable[[Answer, Screen], list[str]]
) -> None:
    """Ends only by Ctrl-C, which is how one leaves it: not a failure."""
    redrawn = draw is _as_report and screen().terminal
    try:
        with _cursor_hidden() if redrawn else _nothing():
            while True:
                _turn(control, screen(), draw, redrawn=redrawn)  # the screen anew: a window changes its size
                time.sleep(every)
    except KeyboardInterrupt:
        return


def _turn(control: Control, screen: Screen, draw: Callable[[Answer, Screen], list[str]], *, redrawn: bool) -> None:
    try:
        lines = draw(control.get("/v1/status"), screen)
    except (NotRunning, TimedOut) as failure:
        _waiting(failure, redrawn=redrawn)
        return
    if redrawn:
        _redraw(lines, screen.height)
    else:
        show(lines if draw is _as_line else [*lines, ""])


def _waiting(failure: Failure, *, redrawn: bool) -> None:
    what = "is not running" if isinstance(failure, NotRunning) else "does not answer"
    text = f"{time.strftime('%H:%M:%S')}  the daemon {what}, waiting …"
    if redrawn:
        sys.stdout.write(f"{_HOME}{text}{_CLEAR_LINE}\n")  # the last report stays below, to be read
        sys.stdout.flush()
    else:
        note(text)


def _redraw(lines: list[str], height: int) -> None:
    """Each line over the one before it: nothing is blank in between, so nothing flickers."""
    shown = lines[: max(1, height - 1)]
    body = "".join(f"{line}{_CLEAR_LINE}\n" for line in shown)
    sys.stdout.write(f"{_HOME}{body}{_CLEAR_BELOW}")
    sys.stdout.flush()


@contextmanager
def _cursor_hidden() -> Iterator[None]:
    sys.stdout.write(_HIDE_CURSOR + _HOME + _CLEAR_BELOW)
    try:
        yield
    finally:
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
