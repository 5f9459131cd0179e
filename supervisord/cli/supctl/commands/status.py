"""`supctl status`."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from supervisord.cli.supctl.client import Answer, Control
from supervisord.cli.supctl.failure import Failure, NotFound, NotRunning, TimedOut
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import Screen, note, show, show_bytes
from supervisord.cli.supctl.status_view import report
from supervisord.cli.supctl.wire import clean
from supervisord.cli.supctl.wire_status import Status

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WATCH_S = 2.0

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    from supervisord.cli.supctl.commands.backends import complete_backend  # noqa: PLC0415 - only for a pressed Tab

    return complete_backend(context, parameter, incomplete)


@click.command()
@click.argument("names", metavar="[BACKEND]...", nargs=-1, shell_complete=_complete)
@click.option("-v", "--verbose", is_flag=True, help="Tell all there is of each backend, too.")
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
def status(session: Session, *, names: tuple[str, ...], verbose: bool, as_json: bool, watch: float | None) -> None:
    """Show the daemon, the memory and every backend; or all there is to say of some BACKENDs."""
    control = session.control()
    draw = _as_line if as_json else partial(_as_details, names=names) if names else _as_report
    if verbose and not names and not as_json:
        draw = _as_both
    if watch is not None:
        _watch(control, session.screen, every=watch, draw=draw)
        return
    answer = control.get("/v1/status")
    if as_json:
        show_bytes(answer.body)
    else:
        show(draw(answer, session.screen()))


def _as_report(answer: Answer, screen: Screen) -> list[str]:
    return report(Status.read(answer.doc), screen)


def _as_both(answer: Answer, screen: Screen) -> list[str]:
    return [*_as_report(answer, screen), "", *_as_details(answer, screen)]


def _as_details(answer: Answer, screen: Screen, *, names: Sequence[str] = ()) -> list[str]:
    """Raises NotFound."""
    from supervisord.cli.supctl.detail_view import details  # noqa: PLC0415 - the plain status is the quick one

    told = Status.read(answer.doc)
    known = {backend.name: backend for backend in told.backends}
    for name in names:
        if name not in known:
            raise NotFound(f"there is no backend {clean(name)}. See: supctl status")
    return details(told, [known[name] for name in names or known], screen)


def _as_line(answer: Answer, _: Screen) -> list[str]:
    return [json.dumps(answer.doc.values)]


def _watch(
    control: Control, screen: Callable[[], Screen], *, every: float, draw: Callable[[Answer, Screen], list[str]]
) -> None:
    """Ends only by Ctrl-C, which is how one leaves it: not a failure."""
    redrawn = draw is not _as_line and screen().terminal
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
