"""`supctl batch`: submit, status, list, cancel, fetch, delete."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from supervisord.cli.supctl.batch_view import listing, record
from supervisord.cli.supctl.client import Control, segment
from supervisord.cli.supctl.failure import ExitStatus, Failure
from supervisord.cli.supctl.figures import count, number
from supervisord.cli.supctl.job_wait import AWAY, waiting_for
from supervisord.cli.supctl.new_file import new_file
from supervisord.cli.supctl.newest import show_newest
from supervisord.cli.supctl.options import Session, common_options, json_option, limit_option, metadata_option, session
from supervisord.cli.supctl.progress import Progress
from supervisord.cli.supctl.screen import note, show, show_bytes, show_parts
from supervisord.cli.supctl.wire import Doc
from supervisord.cli.supctl.wire_work import Batch

LOOK_S = 1.0
LONGEST_LINE = 16 * 1024 * 1024  # bytes; the daemon's own limit
PART = 256 * 1024

_output_option = click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the answers to a new file."
)
_errors_option = click.option(
    "--errors", metavar="FILE", type=click.Path(path_type=Path), help="Write the lines without one to a new file."
)


@click.group()
@common_options
def batch() -> None:
    """Run a file of requests, line by line."""


@batch.command("submit")
@click.argument("file", metavar="FILE", type=click.File("rb"))
@click.option("--endpoint", metavar="PATH", help="As /v1/chat/completions. Default: the url in the first line.")
@click.option("--window", metavar="SPAN", default="24h", help="What is not done by then expires. Default: 24h.")
@metadata_option
@click.option("-w", "--wait", is_flag=True, help="Wait for its end, and show how far it is.")
@_output_option
@_errors_option
@json_option
@common_options
@session
def submit_batch(
    session: Session,
    *,
    file: BinaryIO,
    endpoint: str | None,
    window: str,
    metadata: Mapping[str, str],
    wait: bool,
    output: Path | None,
    errors: Path | None,
    as_json: bool,
) -> None:
    """Upload a file of JSON lines, and begin to work it off; - is the input."""
    if (output or errors) and not wait:
        raise click.UsageError("--output and --errors need --wait; later: supctl batch fetch")
    control = session.control()
    head, url = _head(file)
    asked = {
        "endpoint": endpoint or _endpoint(url),
        "completion_window": window,
        "metadata": dict(metadata),
    }
    name = "input.jsonl" if file.name in {"-", "<stdin>"} else Path(file.name).name
    with _new_files(output, errors) as files:  # before hours of work whose answers had no place
        uploaded = control.send("/v1/files", _parts(head, file), {"filename": name}).doc
        answer = control.post("/v1/batches", {**asked, "input_file_id": uploaded.text("id")})
        made = Batch.read(answer.doc)
        if wait:
            made = _until_over(session, control, made)
            _fetch_ended(control, made, files)
    if wait:
        _tell_end(session, made, as_json=as_json)
    elif as_json:
        show_bytes(answer.body)
    else:
        show([made.id])
        note(f"how far it is: supctl batch status {made.id}")


def _head(file: BinaryIO) -> tuple[bytes, object]:
    """The lines up to the first that is not blank, and the url in that; None: there is none."""
    head = line = file.readline(LONGEST_LINE)
    while line and not line.strip() and len(head) < LONGEST_LINE:
        line = file.readline(LONGEST_LINE)
        head += line
    try:
        return head, json.loads(line)["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return head, None


def _endpoint(url: object) -> str:
    if not isinstance(url, str):
        raise Failure('the first line names no "url": is this a batch file? Name the endpoint with --endpoint')
    return url


def _parts(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield head
    while part := file.read(PART):
        yield part


def _until_over(session: Session, control: Control, batch: Batch) -> Batch:
    """Goes on over a restart of the daemon, as the batch does."""
    progress = Progress(session.screen().width)
    away = False
    try:
        while not batch.is_over:
            progress.show(batch, time.monotonic())
            time.sleep(LOOK_S)
            try:
                batch = Batch.read(control.get(f"/v1/batches/{segment(batch.id)}").doc)
                away = False
            except AWAY as failure:
                if not away:
                    progress.end()
                    note(waiting_for(failure))
                away = True
        progress.show(batch, time.monotonic())
    except KeyboardInterrupt:
        progress.end()
        note(f"the batch goes on without you: supctl batch status {batch.id}")
        raise
    finally:
        progress.end()
    return batch


def _tell_end(session: Session, batch: Batch, *, as_json: bool) -> None:
    if as_json:
        show([json.dumps({"id": batch.id, "status": batch.status, "total": batch.total, "failed": batch.bad})])
    else:
        show(record(batch, session.screen()))
    if not batch.is_good:
        raise click.exceptions.Exit(ExitStatus.FAILED)


@batch.command("status")
@click.argument("batch", metavar="ID")
@click.option("-w", "--wait", is_flag=True, help="Wait for its end, and show how far it is.")
@json_option
@common_options
@session
def show_batch(session: Session, *, batch: str, wait: bool, as_json: bool) -> None:
    """Show how far a batch is."""
    control = session.control()
    answer = control.get(f"/v1/batches/{segment(batch)}")
    if wait:
        _tell_end(session, _until_over(session, control, Batch.read(answer.doc)), as_json=as_json)
    elif as_json:
        show_bytes(answer.body)
    else:
        show(record(Batch.read(answer.doc), session.screen()))


@batch.command("list")
@limit_option(20, 100)
@json_option
@common_options
@session
def list_batches(session: Session, *, limit: int, as_json: bool) -> None:
    """List batches, newest first."""
    answer = session.control().get("/v1/batches", {"limit": limit})
    show_newest(answer, lambda: _listed(answer.doc, session), limit=limit, as_json=as_json)


def _listed(doc: Doc, session: Session) -> list[str]:
    return listing([Batch.read(each) for each in doc.each("batches")], session.screen())


@batch.command("cancel")
@click.argument("batch", metavar="ID")
@json_option
@common_options
@session
def cancel_batch(session: Session, *, batch: str, as_json: bool) -> None:
    """End a batch: what is answered stays, what waits or runs is dropped."""
    answer = session.control().post(f"/v1/batches/{segment(batch)}/cancel", {})
    if as_json:
        show_bytes(answer.body)
    else:
        show(record(Batch.read(answer.doc), session.screen()))


@batch.command("fetch")
@click.argument("batch", metavar="ID")
@_output_option
@_errors_option
@common_options
@session
def fetch_batch(session: Session, *, batch: str, output: Path | None, errors: Path | None) -> None:
    """Print the answers of a batch as JSON lines, or write them to files; what there is this far."""
    control = session.control()
    found = Batch.read(control.get(f"/v1/batches/{segment(batch)}").doc)
    if output or errors:
        with _new_files(output, errors) as files:
            _fetch(control, found.id, files)
    else:
        with control.parts("GET", f"/v1/batches/{segment(found.id)}/output") as received:
            show_parts(received)
    if not found.is_over:
        left = found.total - found.counts.ended
        note(f"the batch is {found.status.replace('_', ' ')}: {number(left, 'line')} still to come")
    if found.bad and not errors:
        note(f"{count(found.bad)} failed: see --errors FILE")


@contextmanager
def _new_files(output: Path | None, errors: Path | None) -> Iterator[Mapping[str, BinaryIO]]:
    """By what is to be written to them. They are there once the block has ended; see `new_file`."""
    named = {"output": output, "errors": errors}
    with ExitStack() as files:
        yield {kind: files.enter_context(new_file(path)) for kind, path in named.items() if path is not None}


def _fetch_ended(control: Control, batch: Batch, files: Mapping[str, BinaryIO]) -> None:
    """After a wait of hours, a failure says what is not lost."""
    try:
        _fetch(control, batch.id, files)
    except Failure:
        note(f"the batch is {batch.status}, and its answers are kept: supctl batch fetch {batch.id}")
        raise


def _fetch(control: Control, batch: str, files: Mapping[str, BinaryIO]) -> None:
    for kind, file in files.items():
        with control.parts("GET", f"/v1/batches/{segment(batch)}/{kind}") as received:
            for part in received:
                file.write(part)


@batch.command("delete")
@click.argument("batch", metavar="ID")
@common_options
@session
def delete_batch(session: Session, *, batch: str) -> None:
    """Forget a batch that is over, with its answers."""
    doc: Doc = session.control().post(f"/v1/batches/{segment(batch)}/delete", {}).doc
    show([f"{doc.text('id')} {doc.text('message')}"])
