"""A file that is there whole, or not at all, and never in the place of another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.wire import clean

PART = ".part"


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file, readable by its owner alone; it has its name once the block has ended without an exception.

    Raises Failure, and lets those of the block through.
    """
    part = path.with_name(path.name + PART)
    with _told(path):
        if path.exists() or path.is_symlink():
            raise FileExistsError
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w+b")
    try:
        with _told(path), file:  # closed within: what is short is written only then
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _told(path):
            _name(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def _name(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # fails where something has come there meanwhile, as a rename would not
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as of a memory stick
        part.rename(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    name = clean(str(path))
    try:
        yield
    except FileExistsError as error:
        there = f"{name}{PART}" if str(error.filename or "").endswith(PART) else name
        raise Failure(f"{there} is there already: move it away, or name another file") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"{name} cannot be written: {error.strerror}") from None
