"""The stand-in NVIDIA driver: builds the library, and writes what it answers."""

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.nvml.claims import Claims

SOURCE = Path(__file__).with_name("nvml.c")
SONAME = "libnvidia-ml.so.1"
LOST = 15
EVER_S = 1e9


def build(cache: Path) -> Path:
    """The folder that holds the library, for LD_LIBRARY_PATH. Built once for each version of its source."""
    folder = cache / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = folder / SONAME
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{SONAME}.{os.getpid()}"
        flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{SONAME}")
        subprocess.run(["gcc", *flags, "-D_DEFAULT_SOURCE", "-o", unfinished, SOURCE], check=True, timeout=60)
        unfinished.replace(library)
    return folder


class FakeDriver:
    """What the library answers to processes started with `env`. Every change shows at their next call."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._file = folder / "nvml.conf"
        self._calls = folder / "nvml.calls"
        self._folder = folder
        self._values: dict[str, str] = {"count": "0"}
        self.claims = Claims(folder / "nvml.claims", self._file)
        self.claims.folder.mkdir(exist_ok=True)
        self.env: Mapping[str, str] = {
            "LD_LIBRARY_PATH": str(library),
            "FAKE_NVML": str(self._file),
            "FAKE_NVML_CALLS": str(self._calls),
            "FAKE_NVML_CLAIMS": str(self.claims.folder),
        }
        self._write()

    def gpu(self, index: int, **values: object) -> None:
        """Set values of one GPU (the keys are in nvml.c); it becomes one of those that are counted."""
        self._values["count"] = str(max(index + 1, int(self._values["count"])))
        self._values |= {f"{index}.{key}": str(value) for key, value in values.items()}
        self._write()

    def card(self, index: int, total: int) -> None:
        """A GPU of `total` bytes, all of them free; processes take them by claims."""
        self.gpu(index, name="Test GPU", uuid=f"GPU-{index}", total=total, free=total, used=0, reserved=0)

    def linger(self, seconds: float = EVER_S) -> None:
        """Memory of processes that die stays taken for so long from now on, as a slow or broken driver does it."""
        self._values["linger"] = str(seconds)
        self._write()

    def lose(self, gpu: int) -> None:
        """It falls off the bus."""
        self.fail("nvmlDeviceGetHandleByIndex_v2", LOST, gpu=gpu)

    @asynccontextmanager
    async def stranger(self, size: int, *, gpu: int = 0, name: str = "blender") -> AsyncIterator[int]:
        """A process called `name`, of nobody the daemon knows, that holds `size` bytes of a GPU; its pid."""
        program = self._folder / name
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        process = await asyncio.create_subprocess_exec(program, "600")
        try:
            assert self.claims.claim(gpu, size, process.pid), "not so much is free"
            yield process.pid
        finally:
            assert process.returncode is None, "somebody ended a process that is not theirs"
            process.kill()
            await process.wait()

    def fail(self, function: str, answer: int | str, *, gpu: int | None = None) -> None:
        """From now on `function` answers an error code, or does not return ("block")."""
        self._values[self._key(function, gpu)] = str(answer)
        self._write()

    def heal(self, function: str, *, gpu: int | None = None) -> None:
        del self._values[self._key(function, gpu)]
        self._write()

    def remove_gpus(self) -> None:
        self._values["count"] = "0"
        self._write()

    def calls(self, function: str) -> int:
        """How often `function` was entered."""
        return self._calls.read_text().split().count(function) if self._calls.exists() else 0

    @staticmethod
    def _key(function: str, gpu: int | None) -> str:
        return f"error.{function}" if gpu is None else f"{gpu}.error.{function}"

    def _write(self) -> None:
        unfinished = self._file.with_suffix(".new")
        unfinished.write_bytes("".join(f"{k}={v}\n" for k, v in self._values.items()).encode(errors="surrogateescape"))
        unfinished.replace(self._file)  # a reader sees the old file or the new one
