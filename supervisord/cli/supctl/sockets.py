"""Where the control socket is, and how to reach it."""

import errno
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisord.cli.supctl.failure import Denied, Failure, NotRunning, TimedOut

SOCKET_VARIABLE = "LLM_SUPERVISORD_SOCKET"
SYSTEM_SOCKET = "/run/llm-supervisord/control.sock"

_BACKLOG_PAUSE_S = 0.02  # a full backlog empties within a turn of the daemon's loop


@dataclass(frozen=True, slots=True)
class Places:
    """The socket paths to try, in order. `named`: the operator gave the path, so nothing else is tried."""

    paths: tuple[str, ...]
    named: bool = False


def places(option: str | None, environ: Mapping[str, str]) -> Places:
    """The paths by `--socket`, the environment, or the defaults: the system's daemon first, then one's own."""
    named = option or environ.get(SOCKET_VARIABLE)
    if named:
        return Places((named,), named=True)
    home = environ.get("HOME", "")
    state = environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    folders = (environ.get("XDG_RUNTIME_DIR", ""), state)
    own = tuple(f"{folder}/llm-supervisord/control.sock" for folder in folders if folder)
    return Places((SYSTEM_SOCKET, *own))


def connect(where: Places, timeout: float) -> socket.socket:
    """A connected socket to the first path where a daemon listens.

    Raises Denied, NotRunning, or TimedOut when the daemon takes no connection within `timeout` seconds.
    """
    refusals: list[tuple[str, OSError]] = []
    for path in where.paths:
        try:
            return _connect(path, timeout)
        except OSError as error:
            refusals.append((path, error))
    raise _explained(refusals)


def _connect(path: str, timeout: float) -> socket.socket:
    give_up = time.monotonic() + timeout
    while True:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        peer.settimeout(timeout)
        try:
            peer.connect(path)
        except BlockingIOError:  # the backlog is full: Unix sockets say so at once instead of waiting
            peer.close()
            if time.monotonic() >= give_up:
                raise TimedOut(f"the daemon takes no connections on {path}: {stuck(timeout)}") from None
            time.sleep(_BACKLOG_PAUSE_S)
        except BaseException:
            peer.close()
            raise
        else:
            return peer


def stuck(timeout: float) -> str:
    return (
        f"no answer within {timeout:g} s. It is overloaded or stopped in its tracks; "
        "look with: systemctl status llm-supervisord"
    )


def _explained(refusals: Sequence[tuple[str, OSError]]) -> Failure:
    for path, error in refusals:
        if isinstance(error, PermissionError):
            return Denied(
                f"permission denied on {path}. Join the group of the daemon and log in again: "
                "sudo usermod -aG llm-supervisord $USER"
            )
    tried = "".join(f"\n  {path}: {_words(error)}" for path, error in refusals)
    return NotRunning(
        f"the daemon is not running. Tried:{tried}\n"
        "Start it with: systemctl start llm-supervisord (installed as a service), or: llm-supervisord\n"
        f"A daemon elsewhere is named with --socket PATH or ${SOCKET_VARIABLE}."
    )


def _words(error: OSError) -> str:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return "no such socket"
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens (left behind by a daemon that ended)"
    return error.strerror or str(error)  # "AF_UNIX path too long" comes without a number
