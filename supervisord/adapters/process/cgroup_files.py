"""Reading and writing the files of a control group (cgroupfs). Blocking, but each takes microseconds."""

import os
import time
from contextlib import suppress
from pathlib import Path

UNLIMITED = 1 << 60  # v1 shows "no limit" as PAGE_COUNTER_MAX pages, some 2**63 bytes (<linux/page_counter.h>)
REMOVE_S, PAUSE_S = 1.0, 0.02  # a group is busy until the kernel has let go of its last process


def text(file: Path) -> str:
    """What a file says; empty where it is not there, or cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""


def number(file: Path) -> int | None:
    """The number in a file; None where there is none, or it means no limit."""
    found = text(file).strip()
    return int(found) if found.isdecimal() and int(found) < UNLIMITED else None


def entry(file: Path, key: str) -> int | None:
    """The number behind `key`, one of the lines `KEY NUMBER` of a file; None where it has no such line."""
    for line in text(file).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdecimal():
            return int(value)
    return None


def write(file: Path, value: str) -> None:
    """Raises OSError; never makes a file, so that one this kernel does not know is an error."""
    descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def make(folder: Path) -> None:
    """Make a group. Raises OSError."""
    folder.mkdir()


def remove(folder: Path) -> None:
    """Remove a group without processes, and those below it. Raises OSError: there are some, or it is not ours."""
    with suppress(FileNotFoundError):
        if not _removed(folder):
            for below in [one for one in folder.iterdir() if one.is_dir()]:
                remove(below)
            folder.rmdir()


def _removed(folder: Path) -> bool:
    """Needs no descriptor, unlike a look at what is below."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_in_time(folder: Path, patience_s: float = REMOVE_S) -> str:
    """Remove a group that is about to become free; why it was not, in words, or empty."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            remove(folder)
        except OSError as error:
            if time.monotonic() >= deadline:
                return f"the control group {folder} could not be removed: {error.strerror}; remove it with rmdir"
        else:
            return ""
        time.sleep(PAUSE_S)


def writable(folder: Path) -> bool:
    """Whether groups can be made below a group, and processes moved there: not in a read-only mount, or another's."""
    return os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
