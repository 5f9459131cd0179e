"""`supctl why`."""

import json

import click

from supervisord.cli.supctl.client import Answer, Control, segment
from supervisord.cli.supctl.commands.backends import complete_backend
from supervisord.cli.supctl.failure import NotFound
from supervisord.cli.supctl.figures import moment
from supervisord.cli.supctl.incident_view import story
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import Screen, show, show_bytes
from supervisord.cli.supctl.why_view import before, job_story, overview, present
from supervisord.cli.supctl.wire import Doc, clean
from supervisord.cli.supctl.wire_incidents import Incident
from supervisord.cli.supctl.wire_records import Job
from supervisord.cli.supctl.wire_status import Backend, Status

_MOST_BEFORE = 100  # incidents that are counted
_MOST_INCIDENTS = 50  # of one job: it is tried a few times


@click.command()
@click.argument("name", metavar="[BACKEND|JOB]", required=False, shell_complete=complete_backend)
@json_option
@common_options
@session
def why(session: Session, *, name: str | None, as_json: bool) -> None:
    """Tell what went wrong, and the last of it whole; with a backend, with it; with a job, what became of that."""
    control, screen = session.control(), session.screen()
    if name is None:
        _newest(control, screen, None, as_json=as_json)
        return
    backends = {each.name: each for each in Status.read(control.get("/v1/status").doc).backends}
    if name in backends:
        _newest(control, screen, backends[name], as_json=as_json)
    else:
        _by_id(control, screen, name, as_json=as_json)


def _newest(control: Control, screen: Screen, backend: Backend | None, *, as_json: bool) -> None:
    """The newest incident, of all or of a backend, and in short those before it."""
    found = control.get("/v1/incidents", {"backend": backend.name if backend else None, "limit": _MOST_BEFORE})
    incidents = found.doc.each("incidents")
    answer = control.get(f"/v1/incidents/{segment(incidents[0].text('id'))}") if incidents else found
    if as_json:
        show_bytes(answer.body)
        return
    now = [] if backend is None else [*present(backend, screen), ""]
    if not incidents:
        show([*now, *_nothing(found.doc, backend)])
        return
    listed, more = [Incident.read(each) for each in incidents], found.doc.flag("more")
    newest = story(Incident.read(answer.doc), screen)
    if backend is None:
        show([*overview(listed, screen, more=more), *newest])
    else:
        show([*now, "What last went wrong with it:", "", *newest, *before(listed, screen, more=more)])


def _nothing(doc: Doc, backend: Backend | None) -> list[str]:
    since = doc.number("recorded_since")
    when = "" if since is None else f" since {moment(since)}, where the records begin"
    return [f"nothing went wrong{'' if backend is None else f' with {backend.name}'}{when}"]


def _by_id(control: Control, screen: Screen, name: str, *, as_json: bool) -> None:
    """A job, else an incident: stories name both by their ids."""
    try:
        job = control.get(f"/v1/jobs/{segment(name)}")
    except NotFound:
        answer = _incident(control, name)
        if as_json:
            show_bytes(answer.body)
        else:
            show(story(Incident.read(answer.doc), screen))
        return
    hits = control.get("/v1/incidents", {"job": job.doc.text("id"), "limit": _MOST_INCIDENTS}).doc
    if as_json:
        show([json.dumps({"job": job.doc.values, "incidents": hits.values.get("incidents", [])})])
        return
    incidents = [Incident.read(each) for each in hits.each("incidents")]
    show(job_story(Job.read(job.doc), job.doc.whole("position"), incidents, screen))


def _incident(control: Control, name: str) -> Answer:
    try:
        return control.get(f"/v1/incidents/{segment(name)}")
    except NotFound:
        raise NotFound(
            f"there is no backend, job or incident {clean(name)}. See: supctl status, supctl jobs, supctl incidents"
        ) from None
