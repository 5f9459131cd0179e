"""`supctl incidents`, `supctl incidents show` and `supctl incidents export`."""

import json
import os
import sys
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from supervisord.cli.supctl.client import Control, segment
from supervisord.cli.supctl.commands.backends import COMPLETION_TIMEOUT_S, complete_backend
from supervisord.cli.supctl.commands.jobs import read_since
from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.incident_view import listing, record
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import note, show, show_bytes
from supervisord.cli.supctl.wire import Doc, clean
from supervisord.cli.supctl.wire_incidents import Incident

KINDS = ("exit", "hang", "load_stall", "shrunk", "evicted", "refused", "unkillable")
LIMIT = 20
_COMPLETED = 20  # incidents that a pressed Tab offers
_ONES = {"secrets": "secret", "prompts": "prompt", "home folders": "home folder"}


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del parameter
    control = Control(context.ensure_object(Session).control().places, COMPLETION_TIMEOUT_S)
    found: tuple[Doc, ...] = ()
    with suppress(Failure):
        found = control.get("/v1/incidents", {"limit": _COMPLETED}).doc.each("incidents")
    items = (CompletionItem(each.text("id"), help=each.text("headline")) for each in found)
    return [item for item in items if item.value.startswith(incomplete)]


@click.group(invoke_without_command=True)
@click.option("--backend", metavar="NAME", shell_complete=complete_backend, help="Only those of this backend.")
@click.option("--kind", type=click.Choice(KINDS), help="Only those of this kind.")
@click.option("--since", metavar="WHEN", callback=read_since, help="Only later ones: 30m, 1h, 2d, or 2026-11-20T14:00.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 1000), default=LIMIT, help=f"At most so many. Default: {LIMIT}."
)
@json_option
@common_options
@session
@click.pass_context
def incidents(
    context: click.Context,
    session: Session,
    *,
    backend: str | None,
    kind: str | None,
    since: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """List what went wrong, newest first; `show` tells one, `export` makes a file of it."""
    if context.invoked_subcommand is not None:
        return
    query = {"backend": backend, "kind": kind, "since": since, "limit": limit}
    answer = session.control().get("/v1/incidents", query)
    if as_json:
        show_bytes(answer.body)
        return
    show(listing([Incident.read(each) for each in answer.doc.each("incidents")], session.screen()))
    if answer.doc.flag("more"):
        note(f"there are older ones; these are the newest {limit} (--limit)")


@incidents.command("show")
@click.argument("incident", metavar="ID", shell_complete=_complete)
@json_option
@common_options
@session
def show_incident(session: Session, *, incident: str, as_json: bool) -> None:
    """Show an incident with its evidence; the first letters of its ID are enough."""
    answer = session.control().get(f"/v1/incidents/{segment(incident)}")
    if as_json:
        show_bytes(answer.body)
    else:
        show(record(Incident.read(answer.doc), session.screen()))


@incidents.command("export")
@click.argument("incident", metavar="ID", shell_complete=_complete)
@click.option("-o", "--output", metavar="FILE", help="Where to write it; - for the output. Default: incident-ID.json.")
@common_options
@session
def export_incident(session: Session, *, incident: str, output: str | None) -> None:
    """Write an incident to one file for a bug report, without secrets and prompts."""
    doc = session.control().get(f"/v1/incidents/{segment(incident)}/export").doc
    text = json.dumps(doc.values, indent=1, ensure_ascii=False) + "\n"
    if output == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        path = output or f"incident-{_file_name(doc)}.json"
        _write(path, text)
        show([f"{clean(path)} written, readable by you alone"])
    note(f"{_removed(doc.child('removed'))}. Read it before you hand it on")


def _file_name(doc: Doc) -> str:
    letters = doc.child("incident").text("id")
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in letters)


def _write(path: str, text: str) -> None:
    """Never over another file: a report that was sent must stay as it was. Raises Failure."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failure(f"{clean(path)} is there already: move it away, or name another file with --output") from None
    except OSError as error:
        raise Failure(f"{clean(path)} cannot be written ({error.strerror}): name another with --output") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - half a report is none; pathlib is not needed for anything else here
        raise Failure(f"{clean(path)} cannot be written ({error.strerror}): name another with --output") from None


def _removed(doc: Doc) -> str:
    counts = {name: doc.count(name) for name in doc.values}
    told = [f"{number} {_ONES.get(name, name) if number == 1 else name}" for name, number in counts.items() if number]
    return f"removed: {', '.join(clean(each) for each in told)}" if told else "nothing in it had to be removed"
