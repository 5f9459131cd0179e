"""The whole daemon as a process, for end-to-end tests: its configuration, its doors, its children."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from tests.fakes.leaves import left_standing
from tests.fakes.stub import write_vllm_wrapper, write_wrapper

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0

Json = dict[str, Any]


class Daemon:
    """One state folder, and the daemon that runs on it (again and again, if a test wants)."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.socket = folder / "control.sock"
        self.output = folder / "daemon.log"
        self.configuration = {
            "listen": "127.0.0.1:0",
            "state_dir": str(folder / "state"),
            "control": {"socket": str(self.socket)},
            **configuration,
        }
        self.arguments: tuple[str, ...] = ()  # of its command line, besides --config
        self.prefix: tuple[str, ...] = ()  # a program that runs it, e.g. as somebody else
        self.process: asyncio.subprocess.Process | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def start(self, **environment: str) -> None:
        """Returns once both doors are open."""
        self.write()
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, "-m", "supervisord", "--config", str(self.config), *self.arguments,
                stdout=output, stderr=output, cwd=ROOT, env={**os.environ, **environment},
            )  # fmt: skip
        await self.until(self._open, "the control socket to answer")
        self.address = (await self.control("GET", "/v1/version"))["listen"]

    def write(self, **settings: object) -> None:
        """Its configuration as a file, with these top-level settings instead of what they were."""
        self.configuration |= settings
        unfinished = self.config.with_suffix(".new")
        unfinished.write_text(yaml.safe_dump(self.configuration))
        unfinished.replace(self.config)

    async def reload(self, **settings: object) -> Json:
        """Write the file, and have it read; the answer."""
        self.write(**settings)
        return await self.control("POST", "/v1/reload", {})

    async def _open(self) -> bool:
        if self.process is not None and self.process.returncode is not None:
            raise AssertionError(f"the daemon ended with status {self.process.returncode}:\n{self.log()}")
        with suppress(aiohttp.ClientError, OSError):
            await self.control("GET", "/v1/version")
            return True
        return False

    def log(self) -> str:
        return self.output.read_text(errors="replace")

    # --- doors -------------------------------------------------------------------------------------------------------

    async def control(self, method: str, path: str, body: object = None) -> Json:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.request(method, f"http://control{path}", json=body) as answer,
        ):
            return json.loads(await answer.text())

    async def status(self) -> Json:
        return await self.control("GET", "/v1/status")

    async def pool(self, label: str = "gpu0") -> Json:
        return next(p for p in (await self.status())["pools"] if p["label"] == label)

    async def backend(self, name: str = "stub") -> Json:
        return next(b for b in (await self.status())["backends"] if b["name"] == name)

    async def events(self, kind: str | None = None) -> list[Json]:
        found = (await self.control("GET", "/v1/events?limit=1000"))["events"]
        return [e for e in found if kind is None or e["kind"] == kind]

    async def jobs(self) -> list[Json]:
        """All jobs with their attempts, oldest first."""
        await self.control("GET", "/v1/events?limit=1")  # commits what has been handed to the store
        return list(reversed((await self.control("GET", "/v1/jobs?limit=1000"))["jobs"]))

    async def until(self, reached: Callable[[], Any], what: str, within: float = PATIENCE_S) -> Any:
        """Polls the daemon from outside, as an operator would: there is no event of its to wait for."""
        try:
            async with asyncio.timeout(within):
                while not (found := await reached()):  # noqa: ASYNC110 - another process has no event of ours
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited {within} s for {what}; the daemon said:\n{self.log()[-4000:]}") from None
        return found

    async def until_phase(self, phase: str, name: str = "stub", within: float = PATIENCE_S) -> Json:
        async def reached() -> Json | None:
            backend = await self.backend(name)
            return backend if backend["phase"] == phase else None

        return await self.until(reached, f"{name} to be {phase}", within)

    # --- ends --------------------------------------------------------------------------------------------------------

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    async def terminate(self, within: float = PATIENCE_S) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return await self.ended(within)

    async def ended(self, within: float = PATIENCE_S) -> int:
        assert self.process is not None
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def kill(self) -> list[psutil.Process]:
        """SIGKILL; returns what it had started."""
        left = self.descendants()
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        return left


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie does not."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@asynccontextmanager
async def running(daemon: Daemon, **environment: str) -> AsyncIterator[Daemon]:
    """A started daemon; at the end it is stopped, and nothing of it may be left."""
    await daemon.start(**environment)
    left: list[psutil.Process] = []
    try:
        yield daemon
        if daemon.process is not None and daemon.process.returncode is None:
            left = daemon.descendants()
    finally:
        if daemon.process is not None and daemon.process.returncode is None:
            await daemon.terminate()
    assert not alive(left), "the daemon left processes behind"
    assert not await left_standing(Path(daemon.configuration["state_dir"])), "control groups were left behind"


def stubbed(folder: Path, *flags: str, **settings: object) -> Json:
    """The configuration of a llama.cpp backend whose program is the stub with these flags; any number in a folder."""
    number = len(list(folder.glob("llama-server-*")))
    # What was learned of one model must not be taken for another's.
    model = folder / ("stub.gguf" if number == 0 else f"stub-{number}.gguf")
    model.write_bytes(b"GGUF")
    program = write_wrapper(folder / f"llama-server-{number}", *flags)
    return {"runtime": "llama.cpp", "binary": str(program), "model": str(model), **quick(settings)}


def vllm_stubbed(folder: Path, *flags: str, **settings: object) -> Json:
    """The same, of a vLLM backend."""
    number = len(list(folder.glob("vllm-*")))
    model = folder / f"model-{number}"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}')
    program = write_vllm_wrapper(folder / f"vllm-{number}", *flags)
    return {"runtime": "vllm", "binary": str(program), "model": str(model), **quick(settings)}


def quick(settings: dict[str, object]) -> Json:
    """`settings` of a backend, with times that a test can wait for where they say nothing else."""
    timeouts = {"probe": "1s", "drain": "2s", "term": "2s", "kill": "3s"} | dict(settings.pop("timeouts", {}))  # type: ignore[call-overload]
    restart = {"backoff": {"base": "100ms", "cap": "1s"}} | dict(settings.pop("restart", {}))  # type: ignore[call-overload]
    return {"probe_interval": "200ms", "timeouts": timeouts, "restart": restart, **settings}
