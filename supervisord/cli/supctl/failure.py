"""How a command ends: the exit statuses scripts rely on, and the errors that lead to them."""

from enum import IntEnum
from typing import ClassVar


class ExitStatus(IntEnum):
    """Stable; documented in docs/supctl.md and in `supctl --help`."""

    OK = 0
    FAILED = 1  # the daemon refused, or what was asked for failed
    USAGE = 2
    NOT_RUNNING = 3
    DENIED = 4
    TIMEOUT = 5
    NOT_FOUND = 6
    INTERRUPTED = 130  # as a shell reports a program ended by Ctrl-C


class Failure(Exception):  # noqa: N818 - read as a word: "a failure", with its subclasses naming which
    """A command that cannot go on. The message says what happened, to what, and what to do next."""

    status: ClassVar[ExitStatus] = ExitStatus.FAILED


class NotRunning(Failure):
    """Nobody answers on the control socket, or who answered has gone."""

    status = ExitStatus.NOT_RUNNING


class Denied(Failure):
    status = ExitStatus.DENIED


class TimedOut(Failure):
    status = ExitStatus.TIMEOUT


class Unavailable(Failure):
    """The daemon is there, and cannot say now: its disk is busy, or full."""


class NotFound(Failure):
    status = ExitStatus.NOT_FOUND
