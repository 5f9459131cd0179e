"""Questions to the machine before a start: who holds a port."""

import os
import socket

import psutil


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
