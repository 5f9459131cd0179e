"""Running the stub backend: as a process beside a test, and as the `binary` of a configured backend."""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 10.0


def stub_argv(*flags: str) -> list[str]:
    return [sys.executable, "-m", "tests.fakes.backend", *flags]


def stub_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def write_wrapper(path: Path, *flags: str) -> Path:
    """A program at `path` that takes llama-server's arguments and is the stub with these faults besides."""
    command = shlex.join(["exec", "env", f"PYTHONPATH={ROOT}", *stub_argv(*flags)])
    path.write_text(f'#!/bin/sh\ncase " $* " in *" --help "*) exit 0;; esac\n{command} "$@"\n')
    path.chmod(0o755)
    return path


def write_vllm_wrapper(path: Path, *flags: str) -> Path:
    """The same, taking the arguments of `vllm`: `path serve MODEL …`."""
    return write_wrapper(path, "--runtime", "vllm", *flags)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a --request-log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class StubProcess:
    """A running stub. `port` is where it listens, ready or still loading."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port

    async def line(self, words: str, within_s: float = PATIENCE_S) -> str:
        """The next line of its log that has these words."""
        assert self.process.stderr is not None
        async with asyncio.timeout(within_s):
            while line := (await self.process.stderr.readline()).decode():
                if words in line:
                    return line
        raise AssertionError(f"the stub ended without saying {words!r}")

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def stub_backend(*flags: str, wait_ready: bool = True) -> AsyncIterator[StubProcess]:
    """Start a stub on a free port, and kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        *stub_argv("--port", "0", *flags),
        env=stub_environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    stub = StubProcess(process, 0)
    try:
        stub.port = int((await stub.line("bound to port")).split()[-1])
        if wait_ready:
            await stub.line("startup complete" if "vllm" in flags or "serve" in flags else "all idle")
        yield stub
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
