"""`supctl jobs` and `supctl jobs show`."""

import re
from datetime import UTC, datetime

import click

from supervisord.cli.supctl.client import segment
from supervisord.cli.supctl.job_view import listing, record
from supervisord.cli.supctl.newest import show_newest
from supervisord.cli.supctl.options import Session, common_options, json_option, limit_option, session
from supervisord.cli.supctl.screen import show, show_bytes
from supervisord.cli.supctl.wire import Doc
from supervisord.cli.supctl.wire_records import Job

STATUSES = ("queued", "running", "done", "failed", "cancelled", "abandoned")

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def since(text: str, now: float) -> float:
    """Seconds since the epoch: `1h` is an hour before `now`; a date without a zone is local. Raises ValueError."""
    match = _SPAN.fullmatch(text.strip().lower())
    if match:
        return now - float(match[1]) * _UNITS[match[2]]
    try:
        return datetime.fromisoformat(text).timestamp()  # a naive one counts as local time
    except (ValueError, OverflowError):
        raise ValueError(f'"{text}" is no time; write 90s, 30m, 1h, 2d, 1w or 2026-11-20T14:00') from None


def read_since(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """The value of `--since` in seconds since the epoch."""
    del context, parameter
    if value is None:
        return None
    try:
        return since(value, datetime.now(UTC).timestamp())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group(invoke_without_command=True)
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs of this status.")
@click.option("--model", metavar="NAME", help="Only jobs that asked for this model.")
@click.option("--backend", metavar="NAME", help="Only jobs that ran on this backend.")
@click.option("--since", metavar="WHEN", callback=read_since, help="Only later ones: 30m, 1h, 2d, or 2026-11-20T14:00.")
@limit_option(50, 1000)
@json_option
@common_options
@session
@click.pass_context
def jobs(
    context: click.Context,
    session: Session,
    *,
    status: str | None,
    model: str | None,
    backend: str | None,
    since: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first; `show` tells one."""
    if context.invoked_subcommand is not None:
        return
    query = {"status": status, "model": model, "backend": backend, "since": since, "limit": limit}
    answer = session.control().get("/v1/jobs", query)
    show_newest(answer, lambda: _listed(answer.doc, session), limit=limit, as_json=as_json)


def _listed(doc: Doc, session: Session) -> list[str]:
    return listing([Job.read(each) for each in doc.each("jobs")], session.screen())


@jobs.command("show")
@click.argument("job", metavar="ID")
@json_option
@common_options
@session
def show_job(session: Session, *, job: str, as_json: bool) -> None:
    """Show the record of a job with its attempts; the first letters of its ID are enough."""
    answer = session.control().get(f"/v1/jobs/{segment(job)}")
    if as_json:
        show_bytes(answer.body)
    else:
        show(record(Job.read(answer.doc), session.screen()))
