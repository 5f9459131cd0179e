"""`supctl backup` and `supctl vacuum`."""

import sqlite3
from contextlib import closing
from pathlib import Path

import click

from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.figures import number, size
from supervisord.cli.supctl.new_file import PART, new_file
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import show, show_bytes
from supervisord.cli.supctl.wire import clean

WAIT_S = 3600.0  # a store of 10 GB is copied in a minute, on a disk that has nothing else to do


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@common_options
@session
def backup(session: Session, *, file: Path) -> None:
    """Copy the store to a new file, while the daemon works; to be opened as state_dir/jobs.sqlite3."""
    with new_file(file) as copy:
        with session.control().parts("POST", "/v1/store/backup", wait=WAIT_S) as received:
            for part in received:
                copy.write(part)
        copy.flush()
        jobs = _looked_over(file.with_name(file.name + PART))
        written = copy.tell()
    show([f"{clean(str(file))} written: {number(jobs, 'job')}, {size(written)}, found whole"])


def _looked_over(path: Path) -> int:
    """How many jobs are in a copy. Raises Failure where it is not whole."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as store:
            problem = store.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem == "ok":
                return int(store.execute("SELECT count(*) FROM jobs").fetchone()[0])
    except sqlite3.Error as error:
        problem = str(error)
    raise Failure(f"the copy is not whole, and was thrown away: {clean(problem)}. How is the store: supctl status")


@click.command()
@json_option
@common_options
@session
def vacuum(session: Session, *, as_json: bool) -> None:
    """Give back to the disk what deleted records held."""
    answer = session.control().post("/v1/store/vacuum", {}, wait=WAIT_S)
    if as_json:
        show_bytes(answer.body)
    else:
        doc = answer.doc
        show([f"{size(doc.count('freed_bytes'))} given back; the store has {size(doc.count('size_bytes'))} now"])
