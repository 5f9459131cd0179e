"""Batches on a screen: a table of them, and all of one."""

from collections.abc import Iterator, Sequence

from supervisord.cli.supctl.figures import ABSENT, count, moment
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.table import Column, table
from supervisord.cli.supctl.wire import clean
from supervisord.cli.supctl.wire_work import Batch, Fault

_STATUSES = {
    "completed": Style.GOOD,
    "in_progress": Style.BUSY,
    "finalizing": Style.BUSY,
    "validating": Style.BUSY,
    "failed": Style.BAD,
    "expired": Style.BAD,
    "cancelling": Style.FAINT,
    "cancelled": Style.FAINT,
}

_COLUMNS = (
    Column("BATCH"),
    Column("CREATED", drop=3),
    Column("STATUS"),
    Column("ENDPOINT", floor=12, drop=2),
    Column("CLIENT", floor=8, drop=1),
    Column("LINES"),
    Column("DONE"),
    Column("FAILED"),
    Column("LEFT"),
)
_LABEL_WIDTH = 14
FAULTS = 20  # of a batch that are printed; --json has them all


def listing(batches: Sequence[Batch], screen: Screen) -> list[str]:
    if not batches:
        return ["no batches"]
    return table(_COLUMNS, [_row(batch) for batch in batches], screen)


def _row(batch: Batch) -> Sequence[Cell]:
    bad = batch.bad
    return (
        Cell(batch.id),
        Cell(moment(batch.created_at)),
        Cell(batch.status or ABSENT, _STATUSES.get(batch.status, Style.PLAIN)),
        Cell(batch.endpoint or ABSENT),
        Cell(batch.client or ABSENT),
        Cell(count(batch.total)),
        Cell(count(batch.counts.succeeded)),
        Cell(count(bad), Style.BAD if bad else Style.PLAIN),
        Cell(count(batch.counts.waiting + batch.counts.running)),
    )


def record(batch: Batch, screen: Screen) -> list[str]:
    """Everything known about a batch."""
    head = Cell(f"batch {batch.id}  {batch.status}", _STATUSES.get(batch.status, Style.PLAIN))
    times = [(status.replace("_", " "), moment(batch.at.number(status))) for status in batch.at.values]
    noted = [(clean(name), batch.metadata.text(name)) for name in batch.metadata.values]
    fields = [
        ("endpoint", batch.endpoint),
        ("client", batch.client),
        ("input", batch.input_file),
        ("lines", _lines(batch)),
        ("created", moment(batch.created_at)),
        *times,
        ("expires", moment(batch.expires_at)),
        *noted,
    ]
    return [
        screen.paint(head),
        *(f"  {label:<{_LABEL_WIDTH}}{text or ABSENT}" for label, text in fields),
        *faults(batch.faults),
    ]


def _lines(batch: Batch) -> str:
    """18 of 20: 15 done, 3 failed, 2 running."""
    counts = batch.counts
    parts = (
        (counts.succeeded, "done"),
        (counts.failed, "failed"),
        (counts.expired, "expired"),
        (counts.cancelled, "cancelled"),
        (counts.running, "running"),
        (counts.waiting, "waiting"),
    )
    told = ", ".join(f"{count(number)} {word}" for number, word in parts if number)
    return f"{count(batch.total)}: {told}" if told else count(batch.total)


def faults(found: Sequence[Fault]) -> Iterator[str]:
    """What is wrong with a batch, line by line."""
    for fault in found[:FAULTS]:
        where = "" if fault.line is None else f"line {fault.line}: "
        yield f"  {where}{fault.message}"
    if len(found) > FAULTS:
        yield f"  and {count(len(found) - FAULTS)} more: see them all with --json"
