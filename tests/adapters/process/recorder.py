"""What tests of processes share: a recorder of events, specifications of small programs, questions to /proc."""

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from supervisord.ports import ProcessSpec

PATIENCE_S = 15.0


class Recorder:
    """Implements ProcessEvents; the waits end with TimeoutError."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.lines: list[str] = []
        self.status: int | None = None
        self._news = asyncio.Event()

    def exited(self, status: int) -> None:
        self.status = status
        self._tell("exited")

    def tree_gone(self) -> None:
        self._tell("gone")

    def output(self, line: str) -> None:
        assert "gone" not in self.story
        self.lines.append(line)
        self._news.set()

    async def until_exited(self) -> int:
        await self._until(lambda: "exited" in self.story)
        assert self.status is not None
        return self.status

    async def until_gone(self) -> None:
        await self._until(lambda: "gone" in self.story)

    async def until_line(self, pattern: str) -> re.Match[str]:
        await self._until(lambda: self._match(pattern) is not None)
        found = self._match(pattern)
        assert found is not None
        return found

    async def pid(self, name: str) -> int:
        """The pid that a program printed as `name=PID`."""
        return int((await self.until_line(rf"^{name}=(\d+)$"))[1])

    def _match(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def _tell(self, what: str) -> None:
        assert "gone" not in self.story, f"{what} after the end"
        self.story.append(what)
        self._news.set()


def sh(script: str, name: str = "b", generation: int = 1, **env: str) -> ProcessSpec:
    return ProcessSpec(name, generation, ("/bin/sh", "-c", script), env)


def py(program: str, *arguments: str, name: str = "b", env: Mapping[str, str] | None = None) -> ProcessSpec:
    return ProcessSpec(name, 1, (sys.executable, "-I", "-S", "-u", "-c", program, *arguments), env or {})


# A leader that starts a grandchild in a session of its own by two forks, as daemons do, and tells both pids.
ESCAPE = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.write(1, b"escaped=%d\\n" % os.getpid())  # in one piece: print would mix with the leader's
        time.sleep(1000)
    os._exit(0)
os.wait()
os.write(1, b"leader=%d\\n" % os.getpid())
"""


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def proc(pid: int, file: str) -> str:
    """The text of /proc/PID/file."""
    return Path(f"/proc/{pid}/{file}").read_text(errors="replace")


def no_children() -> bool:
    """Whether this process has no child at all, not even a zombie."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def descriptors() -> Counter[str]:
    """What this process holds open: the targets (numbers are reused), and how often.

    Without the files that threads of the host open in their own time: logs, and the record of processes.
    """
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            found[re.sub(r"\d+", "", str(link.readlink()))] += 1
    return Counter({name: count for name, count in found.items() if not name.endswith((".log", ".new"))})


async def until(condition: Callable[[], bool]) -> None:
    """Look again until it is so; for states of the kernel that nothing announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
