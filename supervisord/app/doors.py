"""The two listening addresses: TCP for clients, a Unix socket for operators."""

import grp
import os
import pwd
import socket
from contextlib import suppress
from pathlib import Path

from supervisord.core.errors import AddressInUseError, ConfigurationError, StateFolderError

BACKLOG = 1024
SHUTDOWN_S = 2.0  # for connections that are idle or being answered when everything else is down


def bind_tcp(host: str, port: int) -> socket.socket:
    """A bound socket. Raises AddressInUseError, saying who may hold it and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno or 0).lower()
        raise AddressInUseError(
            f"cannot listen on {host}:{port}: {reason}. Is another llm-supervisord or server running there? "
            "Stop it, or change `listen`."
        ) from error
    listener.settimeout(0)
    return listener


def bind_control(path: Path, group: str | None) -> socket.socket:
    """A bound Unix socket of mode 0660 in a folder of mode 0750; a stale one of a dead daemon is replaced.

    Raises StateFolderError, or AddressInUseError when another daemon answers on it.
    """
    gid = _group_id(group)
    try:
        _make_folder(path.parent, gid)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o660)
        if gid is not None:
            os.chown(path, -1, gid)
    except OSError as error:
        raise StateFolderError(
            f"cannot create the control socket {path}: {(error.strerror or str(error)).lower()}. "
            "Make its folder writable, or change control.socket."
        ) from error
    listener.listen(BACKLOG)
    listener.settimeout(0)
    return listener


def _make_folder(folder: Path, gid: int | None) -> None:
    """A folder that is ours gets its mode and group past the umask; one that was there is left as it is."""
    if folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o750)
    if gid is not None:
        os.chown(folder, -1, gid)


def remove_control(path: str) -> None:
    """Take the control socket away: nobody answers on it any more."""
    Path(path).unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
    raise AddressInUseError(f"another daemon answers on {path}. Stop it, or change control.socket.")


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(f'control.group: there is no group "{group}". Create it, or leave it out.') from None


def peers_allowed(group: str | None) -> "PeerRule":
    """Who may use the control socket: root, the daemon's own user, and members of its group."""
    return PeerRule(_group_id(group))


class PeerRule:
    """By peer credentials; the file's mode has let in nobody else already."""

    def __init__(self, gid: int | None) -> None:
        self._gid = os.getgid() if gid is None else gid

    def __call__(self, uid: int, gid: int) -> bool:
        if uid in {0, os.geteuid()} or gid == self._gid:
            return True
        return self._is_member(uid)

    def _is_member(self, uid: int) -> bool:
        """Supplementary groups are not among the credentials: they are looked up."""

        try:
            user = pwd.getpwuid(uid)
        except KeyError:
            return False
        return self._gid in os.getgrouplist(user.pw_name, user.pw_gid)
