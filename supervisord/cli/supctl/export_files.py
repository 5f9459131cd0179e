"""The forms that records are exported in. Each takes pages of jobs as they come, so that memory stays flat."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, BinaryIO, Protocol

from supervisord.cli.supctl.export_rows import FIELDS, Kind, Value, row
from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.wire import Doc


class Form(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


# A spreadsheet calculates what begins so, and models, clients and errors are named from outside. With an apostrophe
# before it, it is a text (OWASP, CSV Injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Sheet(Protocol):
    def add(self, jobs: Sequence[Doc]) -> None: ...


@contextmanager
def sheet(form: Form, file: BinaryIO) -> Iterator[Sheet]:
    """What writes to `file`; it is whole once the block has ended. Raises Failure."""
    match form:
        case Form.CSV:
            yield _Csv(file)
        case Form.JSONL:
            yield _JsonLines(file)
        case Form.PARQUET:
            with _parquet(file) as made:
                yield made


class _JsonLines:
    """Each job as the daemon tells it, with all of its attempts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, jobs: Sequence[Doc]) -> None:
        for job in jobs:
            self._file.write(json.dumps(job.values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


class _Csv:
    """A row for each job; times in ISO 8601, UTC."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._write(csv.DictWriter.writeheader)

    def add(self, jobs: Sequence[Doc]) -> None:
        kinds = {field.name: field.kind for field in FIELDS}
        rows = [{name: _plain(kinds[name], value) for name, value in row(job).items()} for job in jobs]
        self._write(lambda writer: writer.writerows(rows))

    def _write(self, what: Any) -> None:
        text = io.StringIO(newline="")
        what(csv.DictWriter(text, [field.name for field in FIELDS], lineterminator="\n"))
        self._file.write(text.getvalue().encode("utf-8", "replace"))


def _plain(kind: Kind, value: Value) -> Value:
    if kind is Kind.TIME and isinstance(value, float | int):
        return _moment(value).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return ("false", "true")[value] if isinstance(value, bool) else value


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Sheet]:
    """Imported here: it takes half a second and 60 MB, and is an extra."""
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise Failure(
            "Parquet needs pyarrow, which is not installed: pip install 'llm-supervisord[parquet]'; "
            "or export to .csv or .jsonl"
        ) from None
    kinds = {
        Kind.TEXT: pa.string(),
        Kind.WHOLE: pa.int64(),
        Kind.NUMBER: pa.float64(),
        Kind.FLAG: pa.bool_(),
        Kind.TIME: pa.timestamp("ms", tz="UTC"),
    }
    schema = pa.schema([(field.name, kinds[field.kind]) for field in FIELDS])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield _Parquet(pa, writer, schema)


class _Parquet:
    """A row for each job, a group of rows for each page."""

    def __init__(self, pyarrow: Any, writer: Any, schema: Any) -> None:
        self._pyarrow = pyarrow
        self._writer = writer
        self._schema = schema

    def add(self, jobs: Sequence[Doc]) -> None:
        rows = [row(job) for job in jobs]
        columns = {field.name: [_typed(field.kind, each[field.name]) for each in rows] for field in FIELDS}
        self._writer.write_table(self._pyarrow.table(columns, schema=self._schema))


def _typed(kind: Kind, value: Value) -> object:
    return _moment(value) if kind is Kind.TIME and isinstance(value, float | int) else value
