"""The folder of the store, and the lock by which one daemon at a time owns it."""

import fcntl
import os
from pathlib import Path
from typing import Final

from supervisord.adapters.store.trouble import os_words
from supervisord.core.errors import StateFolderError

_PRIVATE_FOLDER: Final = 0o700
_PRIVATE_FILE: Final = 0o600


class FolderLock:
    """An flock on `<store>.lock`: the kernel gives it back with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        """Make the folder of the store at `path` if it is missing, and take the lock. Raises StateFolderError."""
        self._descriptor = _open(path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            if isinstance(error, BlockingIOError):
                raise StateFolderError(
                    f"the store {path} is in use by another daemon (pid {holder or 'unknown'}): stop that one, or give "
                    f"this one a state folder of its own"
                ) from None
            raise StateFolderError(f"the store {path} cannot be locked ({os_words(error)})") from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, only its holder stays unnamed

    def release(self) -> None:
        os.close(self._descriptor)


def _open(path: Path) -> int:
    folder = path.parent
    try:
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock")
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _PRIVATE_FILE)
    except OSError as error:
        raise StateFolderError(
            f"the state folder {folder} cannot be used ({os_words(error)}): make it a folder that uid {os.geteuid()} "
            f"may write, or configure another one"
        ) from error


def make_private_file(path: Path) -> None:
    """An empty file that only its owner may read. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE))


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` safe from a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
