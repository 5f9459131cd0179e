"""Telling the service manager: the datagrams of sd_notify(3)."""

import os
import socket
import time
from collections.abc import MutableMapping

import structlog

_STATUS_BYTES = 1024  # systemd takes datagrams of at most 4096 bytes (NOTIFY_BUFFER_MAX)

log = structlog.get_logger(__name__)


class SystemdNotifier:
    """The Notifier port over NOTIFY_SOCKET. Without one, every call does nothing.

    Sending never waits. A message that cannot be sent is dropped; the first time, and the first time after a message
    that could, this is logged. The variables are taken out of `environ` (default: os.environ), so that no child
    process can speak in the daemon's name.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        name = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us, watchdog_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._address = _address(name)
        self._watchdog_interval_s = _interval(watchdog_us, watchdog_pid) if self._address else None
        self._socket: socket.socket | None = None
        self._failing = False
        if name and self._address is None:
            log.warning("notify_socket_unsupported", name=name, help="a path or an @abstract name is expected")

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog`, in seconds: half of what is allowed, as sd_watchdog_enabled(3) advises."""
        return self._watchdog_interval_s

    def ready(self) -> None:
        """Started, or reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow. Type=notify-reload waits for both."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; cut at 1 KiB."""
        line = " ".join(text.split())  # a line break would begin another assignment
        self._send("STATUS=" + line.encode(errors="replace")[:_STATUS_BYTES].decode(errors="ignore"))

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        """Nothing is told after this."""
        self._address = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:  # the manager restarts, its queue is full, or descriptors ran out
            if not self._failing:
                log.warning("notify_failed", message=message, error=str(error))
            self._failing = True
        else:
            self._failing = False


def _address(name: str) -> str | None:
    """The address of a socket as the kernel takes it: an abstract name begins with a zero byte."""
    if name.startswith("/"):
        return name
    return "\0" + name[1:] if name.startswith("@") and len(name) > 1 else None


def _interval(microseconds: str, pid: str) -> float | None:
    """None when the watchdog is off, or meant for another process."""
    if pid and pid != str(os.getpid()):
        return None
    return int(microseconds) / 2e6 if microseconds.isdigit() and int(microseconds) > 0 else None
