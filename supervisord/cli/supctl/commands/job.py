"""`supctl job`: show, wait, result, cancel."""

import click

from supervisord.cli.supctl.client import Control, segment
from supervisord.cli.supctl.commands.jobs import show_job
from supervisord.cli.supctl.failure import ExitStatus, Failure, NotFound
from supervisord.cli.supctl.figures import exact
from supervisord.cli.supctl.job_wait import OVER, exit_status, until_over
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import note, show, show_bytes, show_parts
from supervisord.cli.supctl.wire import Doc
from supervisord.cli.supctl.wire_records import Job


@click.group()
@common_options
def job() -> None:
    """Look at one job, wait for it, or end it."""


job.add_command(show_job)


@job.command("wait")
@click.argument("job", metavar="ID")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, max=7 * 86400),
    help="How long to wait. Default: until it has ended.",
)
@json_option
@common_options
@session
def wait_job(session: Session, *, job: str, timeout: float | None, as_json: bool) -> None:
    """Wait until a job has ended; the status is 0 when it is done."""
    answer = until_over(session.control(), job, timeout)
    if as_json:
        show_bytes(answer.body)
    else:
        show([ending(answer.doc)])
    raise click.exceptions.Exit(exit_status(answer.doc))


def ending(doc: Doc) -> str:
    """How a job ended, in a line: job x done in 3.2 s."""
    read = Job.read(doc)
    why = ": ".join(part for part in (read.reason, read.detail) if part)
    return f"job {read.id} {read.status} in {exact(read.took_s)}" + (f": {why}" if why else "")


@job.command("result")
@click.argument("job", metavar="ID")
@common_options
@session
def print_result(session: Session, *, job: str) -> None:
    """Print the answer of a job, as its backend gave it."""
    control = session.control()
    found = control.get(f"/v1/jobs/{segment(job)}").doc
    if found.text("status") not in OVER:
        raise Failure(f"job {found.text('id')} is {found.text('status')}: supctl job wait {found.text('id')}")
    if not print_output(control, found):
        raise Failure(f"{ending(found)}. There is no answer of it (any more)")
    if exit_status(found) is not ExitStatus.OK:
        note(ending(found))
    raise click.exceptions.Exit(exit_status(found))


def print_output(control: Control, found: Doc) -> bool:
    """Print what is kept of its answer, and say whether there is any."""
    try:
        with control.parts("GET", f"/v1/jobs/{segment(found.text('id'))}/answer") as received:
            show_parts(received)
    except NotFound:
        return False
    return True


@job.command("cancel")
@click.argument("jobs", metavar="ID...", nargs=-1, required=True)
@common_options
@session
def cancel_jobs(session: Session, *, jobs: tuple[str, ...]) -> None:
    """End jobs, whether they wait or run."""
    status = ExitStatus.OK
    control = session.control()
    for each in jobs:
        try:
            doc = control.post(f"/v1/jobs/{segment(each)}/cancel", {}).doc
            show([f"{doc.text('id')} {doc.text('message')}"])
        except Failure as failure:  # every one has its turn
            note(str(failure))
            status = status or failure.status
    raise click.exceptions.Exit(status)
