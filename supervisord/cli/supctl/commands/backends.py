"""`supctl start`, `stop`, `restart`, `reset` and `logs`: what is asked of backends by name."""

import sys
import time
from collections.abc import Callable, Iterator

import click
from click.shell_completion import CompletionItem

from supervisord.cli.supctl.client import Control, segment
from supervisord.cli.supctl.failure import Failure, TimedOut
from supervisord.cli.supctl.figures import span
from supervisord.cli.supctl.options import Session, common_options, session
from supervisord.cli.supctl.screen import note, show
from supervisord.cli.supctl.wire import Backend, Status, clean

WAIT_S = 300.0  # a 70B model from a cold disk of 500 MB/s takes 80 s
LOG_LINES = 200
LOOK_AGAIN_S = 1.0
_COMPLETION_TIMEOUT_S = 0.5  # a pressed Tab does not wait longer

_HOPELESS = frozenset({"parked", "unkillable"})  # nothing but an operator gets it out of there
_FAILED = _HOPELESS | {"backoff"}
_REACHED = {
    "start": frozenset({"ready"}),
    "restart": frozenset({"ready"}),
    "stop": frozenset({"stopped"}),
    "reset": frozenset({"ready", "stopped"}),
}


def _complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del parameter
    session = context.ensure_object(Session)
    control = Control(session.control().places, _COMPLETION_TIMEOUT_S)
    try:
        known = Status.read(control.get("/v1/status").doc).backends
    except Failure:
        return []
    return [CompletionItem(each.name, help=each.phase) for each in known if each.name.startswith(incomplete)]


def _verb(name: str, summary: str) -> click.Command:
    @click.command(name, help=summary)
    @click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete_name)
    @click.option("--wait/--no-wait", default=True, help="Wait until it is done (default), or only ask for it.")
    @click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=1, max=86400),
        default=WAIT_S,
        help=f"How long to wait for each. Default: {WAIT_S:g}.",
    )
    @common_options
    @session
    def command(session: Session, *, names: tuple[str, ...], wait: bool, timeout: float) -> None:
        _for_each(names, lambda each: _ask(session.control(), name, each, timeout if wait else None))

    return command


start = _verb("start", "Start backends, one after the other.")
stop = _verb("stop", "Stop backends, once their requests are done.")
restart = _verb("restart", "Stop and start backends, one after the other.")
reset = _verb("reset", "Forget failures: unpark, and full context again.")


def _for_each(names: tuple[str, ...], act: Callable[[str], None]) -> None:
    """Every name has its turn, whatever became of the ones before; the first failure gives the exit status."""
    failures: list[Failure] = []
    once = tuple(dict.fromkeys(names))
    for name in once:
        try:
            act(name)
        except Failure as failure:
            failures.append(failure)
            if len(once) == 1:
                raise
            note(f"{clean(name)}: {failure}")
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(once)} failed")


def _ask(control: Control, verb: str, name: str, wait: float | None) -> None:
    path = f"/v1/backends/{segment(name)}/{verb}"
    if wait is None:
        control.post(path, {})
        show([f"asked to {verb} {clean(name)}; see: supctl status"])
        return
    if sys.stderr.isatty():
        note(f"{verb} {clean(name)}: waiting up to {span(wait)}; Ctrl-C ends the waiting only")
    give_up = time.monotonic() + wait
    answer = control.post(path, {"wait_s": wait}, wait=wait)
    told = Backend.read(answer.doc.child("backend"))
    backend = _settled(control, verb, told, give_up)
    _judge(verb, name, backend, wait)
    message = answer.doc.text("message") if backend is told else ""
    show([message or f"{clean(name)} is {backend.phase}"])


def _settled(control: Control, verb: str, backend: Backend, give_up: float) -> Backend:
    """The backend once it is where the verb leads, or cannot get there, or at `give_up` (monotonic seconds).

    The daemon bounds its own wait (at 10 minutes), and may so answer before the operator's patience ends.
    """
    while backend.phase not in _REACHED[verb] | _HOPELESS and time.monotonic() < give_up:
        time.sleep(min(LOOK_AGAIN_S, max(0.0, give_up - time.monotonic())))
        known = Status.read(control.get("/v1/status").doc).backends
        backend = next((each for each in known if each.name == backend.name), backend)
    return backend


def _judge(verb: str, name: str, backend: Backend, waited: float) -> None:
    """Raises Failure when the phase after the wait is not what the verb is for."""
    if backend.phase in _REACHED[verb]:
        return
    reason = backend.last_reason or backend.note
    because = f": {reason}" if reason else ""
    if backend.phase in _FAILED and verb != "stop":
        raise Failure(f"{verb} {clean(name)} failed, it is {backend.phase}{because}. See: supctl logs {clean(name)}")
    raise TimedOut(
        f"{clean(name)} is still {backend.phase or 'busy'} after {waited:g} s; the daemon goes on with it. "
        "See: supctl status"
    )


@click.command()
@click.argument("name", shell_complete=_complete_name)
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0, max=10_000),
    default=LOG_LINES,
    metavar="N",
    help=f"How many of the last lines. Default: {LOG_LINES}.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines as they come, until Ctrl-C.")
@common_options
@session
def logs(session: Session, *, name: str, lines: int, follow: bool) -> None:
    """Print what a backend wrote to stdout and stderr."""
    terminal = session.screen().terminal
    query = {"lines": lines, "follow": 1 if follow else None}
    with session.control().lines(f"/v1/backends/{segment(name)}/logs", query, follow=follow) as received:
        for line in _printable(received) if terminal else received:
            sys.stdout.buffer.write(line + b"\n")
            if follow:
                sys.stdout.buffer.flush()
        sys.stdout.buffer.flush()


def _printable(lines: Iterator[bytes]) -> Iterator[bytes]:
    """A backend's output may hold any bytes; a terminal gets no control characters of it."""
    for line in lines:
        text = line.decode(errors="replace").expandtabs()
        yield clean(text).encode()
