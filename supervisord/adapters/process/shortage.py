"""When the machine has no descriptor, process or memory left: which errors say so, and what helps."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from supervisord.core.errors import SpawnError

# open(2), fork(2), execve(2), socket(2). EAGAIN is a limit of processes there: RLIMIT_NPROC, pids.max, pid_max.
_NUMBERS = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS})


def is_shortage(number: int | None) -> bool:
    """Whether `errno` number of something that a start needs tells of a resource that is used up for now."""
    return number in _NUMBERS


def remedy(number: int) -> str:
    """What to do about it, to be added to a message; empty where nothing is known."""
    match number:
        case errno.EMFILE | errno.ENFILE:
            return "; raise the limit of open files (LimitNOFILE= in the unit)"
        case errno.EAGAIN:
            return "; raise the limit of processes (TasksMax= in the unit, or ulimit -u)"
        case errno.ENOMEM | errno.ENOBUFS:
            return "; free memory, or allow overcommit"
        case _:
            return ""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turns errors that are a shortage into SpawnError; all others pass. `what`: "cannot start small", say."""
    try:
        yield
    except OSError as error:
        if not is_shortage(error.errno):
            raise
        message = f"{what}: {error.strerror}{remedy(error.errno or 0)}"
        raise SpawnError(message, permanent=False, shortage=True) from error
    except RuntimeError as error:  # threading says "can't start new thread" for EAGAIN and ENOMEM alike
        if "new thread" not in str(error):
            raise
        message = f"{what}: {error}{remedy(errno.EAGAIN)}"
        raise SpawnError(message, permanent=False, shortage=True) from error
