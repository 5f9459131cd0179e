"""A GPU to test on: the real one where there is one, and the stand-in, which proves that the scenarios themselves work.

Every scenario is told once, in terms of a `Card`. What stays unproven without a real GPU is NVIDIA's part of it.
"""

import asyncio
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.daemon import Daemon, Json, quick, running
from tests.fakes.fleet import CARD, GIB, MEMORY, cards
from tests.fakes.stub import ROOT

PYTHON_VARIABLE = "LLM_SUPERVISORD_TORCH_PYTHON"
HUNGRY = Path(__file__).with_name("hungry.py")
READER = ROOT / "tests/fakes/nvml/reader.py"

LOAD_S = 180.0  # the first import of PyTorch reads gigabytes, and CUDA makes its context; mostly 5 to 20 s
LOOK_S = 20.0
OVERHEAD = GIB  # of a process beside what it allocates: the CUDA context, some 300 to 600 MiB
SMALLEST_CARD = 6 * GIB
FREE_SHARE = 0.85  # of the card: the scenarios share out all but what a desktop takes

_TRY_CUDA = "import torch; torch.empty(1, device='cuda'); print(torch.__version__)"
_SMI = ("memory.total", "memory.used", "memory.free", "uuid", "name")


@dataclass(frozen=True, slots=True)
class Told:
    """What the driver's own tool says of a card; bytes."""

    total: int
    used: int
    free: int
    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU with almost nothing on it, and what makes processes use it."""

    uuid: str
    total: int  # bytes
    python: str  # of an environment with PyTorch; any, for the stand-in
    told: Callable[[], Told]
    real: bool = True
    blind: str = ""  # why the driver does not tell which process holds what; empty where it does
    env: Mapping[str, str] = field(default_factory=dict)
    release_slowly: Callable[[float], None] = lambda _: None  # for so many seconds; a real driver has its own ideas

    def share(self, of_all: float) -> int:
        """Bytes."""
        return int(self.total * of_all)

    def hungry(self, size: int, **settings: Any) -> Json:
        """A backend that is said to take `size` bytes, and takes a little less besides its CUDA context."""
        times = {"probe": "5s", "term": "10s", "kill": "30s"}
        known = {"memory": {"vram": size}, "gpus": [self.uuid], "autostart": False, "timeouts": times}
        command = [self.python, str(HUNGRY), "--hold", str(size - OVERHEAD), "--port", "${port}"]
        return {"runtime": "command", "command": command, **quick(known | settings)}

    def daemon(self, folder: Path, backends: Mapping[str, Any]) -> AbstractAsyncContextManager[Daemon]:
        """A running daemon with these backends."""
        return running(Daemon(folder, {"backends": dict(backends), "memory": MEMORY}), **self.env)

    @asynccontextmanager
    async def stranger(self, size: int) -> AsyncIterator[int]:
        """A process of nobody the daemon knows that has allocated `size` bytes; its pid."""
        process = await asyncio.create_subprocess_exec(
            self.python, HUNGRY, "--hold", str(size), env=self._of_a_process(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(LOAD_S):
                while b"holds" not in (line := await process.stdout.readline()):
                    assert line, "it ended before it had its memory; see its words above"
            yield process.pid
            assert process.returncode is None, "somebody ended a process that is not theirs"
        finally:
            process.stdin.close()  # its way to end; and it ends so when the test is killed, too
            async with asyncio.timeout(LOOK_S):
                await process.wait()

    def _of_a_process(self) -> dict[str, str]:
        return {**os.environ, **self.env, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": self.uuid}

    @asynccontextmanager
    async def eye(self) -> AsyncIterator["Eye"]:
        """The daemon's own sensor, in a process beside it."""
        process = await asyncio.create_subprocess_exec(
            *_reader(), env=_reader_environment(self.env), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        eye = Eye(process, self.uuid)
        try:
            yield eye
        finally:
            await eye.close()


class Eye:
    """Looks at one card through `adapters.nvml.NvmlSensor`, and remembers the most that was ever used."""

    def __init__(self, process: asyncio.subprocess.Process, uuid: str) -> None:
        self._process = process
        self._uuid = uuid
        self._asking = asyncio.Lock()
        self.peak = 0
        self.looks = 0

    async def look(self) -> Json:
        """The card's sample as it is now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._asking, asyncio.timeout(LOOK_S):
            self._process.stdin.write(b"read\n")
            line = await self._process.stdout.readline()
        sample = _of_card(json.loads(line), self._uuid)
        assert sample["state"] == "ok", sample["problem"]
        self.peak, self.looks = max(self.peak, sample["used"]), self.looks + 1
        return sample

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Looks again and again meanwhile."""

        enough = asyncio.Event()

        async def watch() -> None:
            while not enough.is_set():
                await self.look()
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            yield
            enough.set()

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(LOOK_S):
            await self._process.wait()


def held_by(pids: set[int], sample: Json) -> int:
    """Bytes of a card that these processes hold."""
    return sum(one["used"] or 0 for one in sample["processes"] if one["pid"] in pids)


def _reader() -> tuple[str, ...]:
    deadline, retry, root = "10", "60", "/"
    return sys.executable, str(READER), deadline, retry, root


def _reader_environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **env, "PYTHONPATH": str(ROOT)}


def _of_card(reading: Json, uuid: str) -> Json:
    found = [gpu for gpu in reading["gpus"] if gpu["uuid"] == uuid]
    assert found, f"{uuid} is not among what the sensor reads: {reading}"
    return dict(found[0])


# --- the stand-in ----------------------------------------------------------------------------------------------------


def stand_in(config: pytest.Config, folder: Path) -> Card:
    """A played card, of which `hungry.py` takes claims."""
    driver = cards(config, folder)

    def told() -> Told:
        taken = driver.claims.taken(0)
        return Told(CARD, taken, CARD - taken, "GPU-0", "Test GPU")

    return Card("GPU-0", CARD, sys.executable, told, real=False, env=driver.env, release_slowly=driver.linger)


# --- the real one ----------------------------------------------------------------------------------------------------


def look_for_card() -> Card:
    """The emptiest GPU of this machine; skips the test, saying why, where there is none to test on."""
    gpu = _emptiest(_read_once())
    python = _torch_python()
    uuid = gpu["uuid"]
    return Card(uuid, gpu["total"], python, lambda: _ask_smi(uuid), blind=_blindness(python, uuid))


def _read_once() -> Json:
    done = subprocess.run(
        _reader(), input="read\n", capture_output=True, text=True, env=_reader_environment({}), timeout=60, check=True
    )
    return dict(json.loads(done.stdout))


def _emptiest(reading: Json) -> Json:
    if reading["state"] != "ok":
        pytest.skip(f"no NVIDIA GPU to test on: {reading['problem'] or reading['state']}")
    gpu: Json = max((each for each in reading["gpus"] if each["state"] == "ok"), key=lambda each: each["free"])
    free, total = gpu["free"], gpu["total"]
    if total < SMALLEST_CARD:
        pytest.skip(f"{gpu['name']} is too small: {total / GIB:.1f} GiB of at least {SMALLEST_CARD / GIB:.0f}")
    if free < FREE_SHARE * total:
        pytest.skip(f"the card is in use: {free / GIB:.1f} of {total / GIB:.1f} GiB are free, {FREE_SHARE:.0%} needed")
    return gpu


def _torch_python() -> str:
    named = os.environ.get(PYTHON_VARIABLE)
    problems = []
    for python in [sys.executable, *([named] if named else [])]:
        try:
            tried = subprocess.run(
                [python, "-c", _TRY_CUDA], capture_output=True, text=True, timeout=LOAD_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(f"{python}: {error}")
            continue
        if tried.returncode == 0:
            return python
        problems.append(f"{python}: {(tried.stderr.splitlines() or ['it says nothing'])[-1]}")
    hint = "" if named else f"; name one that has it by {PYTHON_VARIABLE}"
    pytest.skip(f"no Python with PyTorch for CUDA ({'; '.join(problems)}){hint}")


def _blindness(python: str, uuid: str) -> str:
    """Why NVML does not tell of our processes by their pids: in a container it knows the pids of the host, or none."""
    env = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": uuid}
    holder = subprocess.Popen(
        [python, str(HUNGRY), "--hold", str(2**28)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    limit = threading.Timer(LOAD_S, holder.kill)
    limit.start()
    try:
        assert holder.stdout is not None
        while b"holds" not in (line := holder.stdout.readline()):
            assert line, "it could not take 256 MiB; see its words above"
        listed = {one["pid"]: one["used"] for one in _of_card(_read_once(), uuid)["processes"]}
    finally:
        limit.cancel()
        holder.kill()
        holder.communicate(timeout=LOOK_S)
    if listed.get(holder.pid):
        return ""
    return f"the driver does not list our processes by pid (in a container?): {listed} without {holder.pid}"


def _ask_smi(uuid: str) -> Told:
    program = shutil.which("nvidia-smi")
    if program is None:
        pytest.skip("no nvidia-smi on PATH to compare with")
    query = (program, f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits", f"--id={uuid}")
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    total, used, free, found, name = next(csv.reader(done.stdout.splitlines(), skipinitialspace=True))
    mib = 2**20
    return Told(int(total) * mib, int(used) * mib, int(free) * mib, found, name)


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_card() -> Card:
    return look_for_card()


@pytest.fixture(params=["stand_in", pytest.param("real", marks=pytest.mark.gpu)])
def card(request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path) -> Card:
    """Each scenario once on the stand-in, and once on the real GPU where there is one."""
    if request.param == "stand_in":
        return stand_in(pytestconfig, tmp_path)
    found: Card = request.getfixturevalue("real_card")
    return found


@pytest.fixture
def named(card: Card) -> Card:
    """A card whose driver tells which process holds what."""
    if card.blind:
        pytest.skip(card.blind)
    return card


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that waits for several loads of a real model server."""
    timeout = aiohttp.ClientTimeout(total=4 * LOAD_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session
