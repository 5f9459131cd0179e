"""`supctl incidents`, `supctl incidents show` and `supctl incidents export`."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from supervisord.cli.supctl.client import Control, segment
from supervisord.cli.supctl.commands.backends import COMPLETION_TIMEOUT_S, complete_backend
from supervisord.cli.supctl.commands.jobs import read_since
from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.incident_view import listing, record
from supervisord.cli.supctl.new_file import new_file
from supervisord.cli.supctl.newest import show_newest
from supervisord.cli.supctl.options import Session, common_options, json_option, limit_option, session
from supervisord.cli.supctl.screen import note, show, show_bytes
from supervisord.cli.supctl.wire import Doc, clean
from supervisord.cli.supctl.wire_incidents import Incident

KINDS = ("exit", "hang", "load_stall", "shrunk", "evicted", "refused", "unkillable")
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
@limit_option(20, 1000)
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
    show_newest(answer, lambda: _listed(answer.doc, session), limit=limit, as_json=as_json)


def _listed(doc: Doc, session: Session) -> list[str]:
    return listing([Incident.read(each) for each in doc.each("incidents")], session.screen())


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
        path = Path(output or f"incident-{_file_name(doc)}.json")
        with new_file(path) as file:
            file.write(text.encode(errors="replace"))
        show([f"{clean(str(path))} written, readable by you alone"])
    note(f"{_removed(doc.child('removed'))}. Read it before you hand it on")


def _file_name(doc: Doc) -> str:
    letters = doc.child("incident").text("id")
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in letters)


def _removed(doc: Doc) -> str:
    counts = {name: doc.count(name) for name in doc.values}
    told = [f"{number} {_ONES.get(name, name) if number == 1 else name}" for name, number in counts.items() if number]
    return f"removed: {', '.join(clean(each) for each in told)}" if told else "nothing in it had to be removed"
