"""`supctl export`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from supervisord.cli.supctl.client import Control, Query
from supervisord.cli.supctl.commands.jobs import STATUSES, read_since
from supervisord.cli.supctl.export_files import Form, Sheet, sheet
from supervisord.cli.supctl.figures import number
from supervisord.cli.supctl.new_file import new_file
from supervisord.cli.supctl.options import Session, common_options, session
from supervisord.cli.supctl.screen import show
from supervisord.cli.supctl.wire import Doc, clean

PAGE = 1000  # jobs at a time: 2 MB of JSON


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format", "form", type=click.Choice([form.value for form in Form]), help="Default: as the name of the file ends."
)
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs of this status.")
@click.option("--model", metavar="NAME", help="Only jobs that asked for this model.")
@click.option("--backend", metavar="NAME", help="Only jobs that ran on this backend.")
@click.option("--batch", metavar="ID", help="Only the lines of this batch.")
@click.option("--since", metavar="WHEN", callback=read_since, help="Only later ones: 30m, 1h, 2d, or 2026-11-20T14:00.")
@common_options
@session
def export(
    session: Session,
    *,
    file: Path,
    form: str | None,
    status: str | None,
    model: str | None,
    backend: str | None,
    batch: str | None,
    since: float | None,
) -> None:
    """Write records of jobs to a new file, newest first: CSV, JSON lines or Parquet; - is the output."""
    chosen = _form(form, file)
    query: Query = {"status": status, "model": model, "backend": backend, "batch": batch, "since": since}
    pages = _pages(session.control(), query)
    if str(file) == "-":
        with sheet(chosen, sys.stdout.buffer) as made:
            _fill(made, pages)
        sys.stdout.buffer.flush()
        return
    with new_file(file) as output, sheet(chosen, output) as made:
        jobs = _fill(made, pages)
    show([f"{clean(str(file))} written: {number(jobs, 'job')}"])


def _form(given: str | None, file: Path) -> Form:
    word = given or file.suffix.removeprefix(".").lower()
    if word not in set(Form):
        raise click.UsageError(f"--format says which form: {', '.join(Form)}; or a name that ends in .csv does")
    return Form(word)


def _fill(made: Sheet, pages: Iterator[Sequence[Doc]]) -> int:
    jobs = 0
    for page in pages:
        made.add(page)
        jobs += len(page)
    return jobs


def _pages(control: Control, query: Query) -> Iterator[Sequence[Doc]]:
    """All that there are, newest first. What is submitted meanwhile is not among them."""
    after: str | None = None
    while True:
        answer = control.get("/v1/jobs", {**query, "limit": PAGE, "after": after}).doc
        page = answer.each("jobs")
        if page:
            yield page
            after = page[-1].text("id")
        if not page or not answer.flag("more"):
            return
