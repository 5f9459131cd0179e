"""Questions to the machine before a start: what a program offers, who holds a port."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import psutil

HELP_BYTES = 256 * 1024


async def help_text(program: Sequence[str], timeout: float) -> str:
    """What `program --help` prints on stdout or stderr; empty when it fails or takes longer than `timeout` seconds."""
    return await asyncio.to_thread(_help_text, tuple(program), timeout)


def _help_text(program: tuple[str, ...], timeout: float) -> str:
    try:
        asked = subprocess.Popen(  # noqa: S603 - the very program that the configuration names, without a shell
            [*program, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError:
        return ""  # the start itself will say why
    with asked:
        try:
            text, _ = asked.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return ""  # what it does not tell is not used
        finally:
            with suppress(ProcessLookupError):
                os.killpg(asked.pid, signal.SIGKILL)  # it, if it hangs, and whatever it left behind
    return text[:HELP_BYTES].decode("utf-8", "replace") if asked.returncode == 0 else ""


def port_problem(host: str, port: int) -> str | None:
    """Why nobody could listen on `port`, naming the holder where it can be seen; None if one could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
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
