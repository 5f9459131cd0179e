"""`supctl start`, `stop`, `restart`, `reset`, `load`, `unload` and `logs`: what is asked of backends by name.

All but `reset` and `logs` also take the name of a model: the daemon then knows which of its backends are meant.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from supervisord.cli.supctl.client import Answer, Control, segment
from supervisord.cli.supctl.failure import Failure, NotFound, TimedOut
from supervisord.cli.supctl.figures import span
from supervisord.cli.supctl.options import Session, common_options, session
from supervisord.cli.supctl.screen import note, show
from supervisord.cli.supctl.wire import Doc, clean
from supervisord.cli.supctl.wire_status import Backend, Status

WAIT_S = 300.0  # a 70B model from a cold disk of 500 MB/s takes 80 s
LOG_LINES = 200
LOOK_AGAIN_S = 1.0
COMPLETION_TIMEOUT_S = 0.5  # a pressed Tab does not wait longer

_HOPELESS = frozenset({"parked", "unkillable"})  # nothing but an operator gets it out of there
_FAILED = _HOPELESS | {"backoff"}
_REACHED = {
    "start": frozenset({"ready"}),
    "restart": frozenset({"ready"}),
    "load": frozenset({"ready"}),
    "stop": frozenset({"stopped"}),
    "unload": frozenset({"stopped", "backoff", "parked"}),  # nothing of it is in memory, whatever comes next
    "reset": frozenset({"ready", "stopped"}),
}
_OF_MODELS = _REACHED.keys() - {"reset"}
_ENDS = frozenset({"stop", "unload"})


def complete_backend(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The backends of the running daemon whose names begin so."""
    del parameter
    return [item for item in _names(context, models=False) if item.value.startswith(incomplete)]


def _complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del parameter
    return [item for item in _names(context, models=True) if item.value.startswith(incomplete)]


def _names(context: click.Context, *, models: bool) -> list[CompletionItem]:
    """The names of backends, and of models if wanted, each once; none where no daemon answers at once."""
    session = context.ensure_object(Session)
    control = Control(session.control().places, COMPLETION_TIMEOUT_S)
    found: dict[str, str] = {}
    with suppress(Failure):
        found |= {each.name: each.phase for each in Status.read(control.get("/v1/status").doc).backends}
        for model in control.get("/v1/models").doc.each("models") if models else ():
            for name in (model.text("name"), *model.texts("aliases")):
                found.setdefault(name, "model")
    return [CompletionItem(name, help=what) for name, what in found.items()]


def _verb(name: str, summary: str) -> click.Command:
    complete = _complete_name if name in _OF_MODELS else complete_backend

    @click.command(name, help=summary)
    @click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete)
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


start = _verb("start", "Start backends or models, one after the other, and keep them running.")
stop = _verb("stop", "Stop backends or models, once their requests are done.")
restart = _verb("restart", "Stop and start backends or models, one after the other.")
reset = _verb("reset", "Forget failures of backends: unpark, and full context again.")
load = _verb("load", "Load backends or models as a request would; idle ones make room.")
unload = _verb("unload", "Unload backends or models, until a request needs them.")


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
    if wait is None:
        _post(control, verb, name, None)
        show([f"asked to {verb} {clean(name)}; see: supctl status"])
        return
    if sys.stderr.isatty():
        note(f"{verb} {clean(name)}: waiting up to {span(wait)}; Ctrl-C ends the waiting only")
    give_up = time.monotonic() + wait
    answer = _post(control, verb, name, wait)
    told = _meant(answer.doc)
    backends = _settled(control, verb, told, give_up)
    for backend in backends:
        _judge(verb, backend.name or name, backend, wait)
    message = answer.doc.text("message") if backends == told else ""
    show([message or "; ".join(f"{each.name or clean(name)} is {each.phase}" for each in backends)])


def _post(control: Control, verb: str, name: str, wait: float | None) -> Answer:
    """Ask the backend of that name, else the model. Raises NotFound when there is neither."""
    body = {} if wait is None else {"wait_s": wait}
    try:
        return control.post(f"/v1/backends/{segment(name)}/{verb}", body, wait=wait or 0.0)
    except NotFound as no_backend:
        if verb not in _OF_MODELS:
            raise
        try:
            return control.post(f"/v1/models/{segment(name)}/{verb}", body, wait=wait or 0.0)
        except NotFound as no_model:
            raise NotFound(f"{no_backend} {no_model}") from None


def _meant(answer: Doc) -> Sequence[Backend]:
    """The backends of which something was asked: one by its name, or those of a model."""
    one = answer.child("backend")
    return [Backend.read(doc) for doc in ((one,) if one.values else answer.each("backends"))]


def _settled(control: Control, verb: str, backends: Sequence[Backend], give_up: float) -> Sequence[Backend]:
    """The backends once they are where the verb leads, or cannot get there, or at `give_up` (monotonic seconds).

    The daemon bounds its own wait (at 10 minutes), and may so answer before the operator's patience ends.
    """
    ended = _REACHED[verb] | _HOPELESS
    while not all(each.phase in ended for each in backends) and time.monotonic() < give_up:
        time.sleep(min(LOOK_AGAIN_S, max(0.0, give_up - time.monotonic())))
        known = {each.name: each for each in Status.read(control.get("/v1/status").doc).backends}
        backends = [known.get(each.name, each) for each in backends]
    return backends


def _judge(verb: str, name: str, backend: Backend, waited: float) -> None:
    """Raises Failure when the phase after the wait is not what the verb is for."""
    if backend.phase in _REACHED[verb]:
        return
    reason = backend.last_reason or backend.note
    because = f": {reason}" if reason else ""
    if backend.phase in _FAILED and verb not in _ENDS:
        raise Failure(f"{verb} {clean(name)} failed, it is {backend.phase}{because}. See: supctl logs {clean(name)}")
    held = f": {backend.held}" if backend.held else ""
    raise TimedOut(
        f"{clean(name)} is still {backend.phase or 'busy'} after {waited:g} s{held}; the daemon goes on with it. "
        "See: supctl status"
    )


@click.command()
@click.argument("name", shell_complete=complete_backend)
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
