"""Questions to the machine before a start: who holds a port, whether a file can be read."""

import os
import socket
import stat
from pathlib import Path

import psutil

from supervisord.adapters.detached import within
from supervisord.adapters.process.shortage import is_shortage, told

FILE_S = 10.0  # a disk or a network folder that takes longer for one byte does not answer


async def file_problem(path: str) -> str | None:
    """Why a file or folder cannot be read, in words; None if it can. Takes FILE_S at most.

    Raises SpawnError where the daemon has nothing left to look at it with: nothing is wrong with the file then.
    """
    try:
        with told(f"{path} cannot be looked at"):
            return await within(FILE_S, lambda: _file_problem(path), "file")
    except TimeoutError:
        return f"{path}: its disk has not answered for {FILE_S:g} s"


def _file_problem(path: str) -> str | None:
    try:
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            with os.scandir(path) as entries:
                next(entries, None)
            return None
        if not stat.S_ISREG(kind):  # a named pipe would wait for somebody to write
            return f"{path}: Not a regular file"
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        if is_shortage(error.errno):
            raise
        return f"{path}: {error.strerror}"
    except ValueError as error:  # a NUL byte in it
        return f"{path!r}: {error}"
    return None


def port_problem(host: str, port: int) -> str | None:
    """Why nobody could listen on `port`, naming the holder where it can be seen; None if one could.

    Raises SpawnError where the daemon has no socket left to try it with.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with told(f"port {port} cannot be tried"), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)  # SO_REUSEADDR lets bind pass where somebody listens already
    except OSError as error:
        return f"Port {port} cannot be used: {os.strerror(error.errno or 0).lower()}{_holder(port)}."
    return None


def _holder(port: int) -> str:
    try:
        found = next(
            c.pid
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port
        )
        return f" by {psutil.Process(found).name()} (pid {found})" if found else ""
    except (StopIteration, psutil.Error, OSError):
        return ""  # other users' sockets have no visible owner
