"""Starts backends below guardians, and leaves nothing behind."""

import asyncio
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from supervisord.adapters.process import inspect
from supervisord.adapters.process.cgroups import detect, no_groups
from supervisord.adapters.process.child import GuardedProcess
from supervisord.adapters.process.guardian import PR_SET_CHILD_SUBREAPER, prctl
from supervisord.adapters.process.launch import environment, launch, marks
from supervisord.adapters.process.leftovers import Memory, Remembered, kill_leftovers
from supervisord.adapters.process.log_writer import LogWriter
from supervisord.adapters.process.shortage import is_shortage
from supervisord.core.errors import SpawnError, StateFolderError
from supervisord.ports import GroupsState, ManagedProcess, ProcessEvents, ProcessSpec

START_S = 30.0  # a guardian is up in 20 ms; a machine that swaps needs longer
CLOSE_S = 5.0
RECENT_PORTS = 64


class LinuxProcessHost:
    """Implements `ports.ProcessHost` (Linux 5.3 or newer: pidfd). Made, used and closed on one event loop's thread.

    `cgroups`: give each backend a control group of its own, where the system lets us; the daemon may move to another.
    Logs go to `<log_dir>/<backend>.log`, rotated at `log_max_bytes`, with `log_keep` old ones.
    Raises StateFolderError when `<state_dir>/run` cannot be written.
    """

    def __init__(
        self,
        state_dir: Path,
        log_dir: Path,
        *,
        log_max_bytes: int,
        log_keep: int,
        secrets: Callable[[], Collection[str]] = tuple,
        cgroups: bool = True,
    ) -> None:
        self._secrets = secrets  # values of the daemon's environment that are not handed on
        self._memory = Memory(state_dir)
        try:
            self._instance = self._memory.instance()
        except OSError as error:
            message = f"cannot keep the record of processes in {state_dir / 'run'}: {error.strerror}; fix its rights"
            raise StateFolderError(message) from error
        self._groups = detect(self._instance) if cgroups else no_groups("turned off by memory.cgroups")
        # If a guardian is killed, its children become ours and not init's.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._children: set[GuardedProcess] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._writer = LogWriter(log_dir, max_bytes=log_max_bytes, keep=log_keep)
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="process-record")  # one: in order
        self._recent_ports: deque[int] = deque(maxlen=RECENT_PORTS)

    async def kill_leftovers(self) -> Sequence[str]:
        own = [child.guardian.pid for child in self._children]
        return await asyncio.to_thread(kill_leftovers, self._memory, self._instance, own, self._groups)

    async def spawn(self, spec: ProcessSpec, events: ProcessEvents) -> ManagedProcess:
        """Start a process; its events begin once this has returned. Raises SpawnError."""
        leaf = self._groups.create(spec.name, spec.generation, spec.limits)
        env = environment(os.environ, spec, self._instance, self._secrets())
        try:
            launched = launch(spec, env, marks(self._instance, spec), leaf)
        except SpawnError:
            self._groups.give_back(leaf, 0.0)  # nothing has ever been in it
            raise
        child = GuardedProcess(
            spec,
            launched=launched,
            marks=marks(self._instance, spec),
            file=self._writer.file(spec.name),
            events=events,
            changed=self._on_changed,
            leaf=leaf,
        )
        self._children.add(child)
        self._all_gone.clear()
        try:
            async with asyncio.timeout(START_S):
                await child.started()
        except TimeoutError:
            child.abandon()
            message = f"cannot start {spec.name}: nothing ran after {START_S:.0f} s; the machine is overloaded"
            raise SpawnError(message, permanent=False) from None
        except asyncio.CancelledError:
            child.abandon()
            raise
        self._on_changed(child)
        return child

    def groups(self) -> GroupsState:
        return self._groups.state()

    def free_port(self, host: str) -> int:
        """Never one of the last few given out: two starts at a time must not get the same. Raises SpawnError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held: list[socket.socket] = []
        try:
            while True:
                listener = socket.socket(family, socket.SOCK_STREAM)
                held.append(listener)
                listener.bind((host, 0))
                port: int = listener.getsockname()[1]
                if port not in self._recent_ports:
                    self._recent_ports.append(port)
                    return port
        except OSError as error:
            message = f"no free TCP port on {host}: {error.strerror or error}"
            raise SpawnError(message, permanent=False, shortage=is_shortage(error.errno)) from error
        finally:
            for listener in held:
                listener.close()

    def find_program(self, name: str) -> str | None:
        found = shutil.which(name)
        return str(Path(found).absolute()) if found else None

    async def file_problem(self, path: str) -> str | None:
        return await inspect.file_problem(path)

    async def close(self) -> None:
        """Kill what is left, for at most 5 s; then the guardians go on alone. Writes the logs out, ends the threads."""
        for child in self._children:
            child.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_gone.wait(), CLOSE_S)
        for child in list(self._children):
            child.let_go()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._recorder.shutdown)

    def _on_changed(self, child: GuardedProcess) -> None:
        if child.ended and child in self._children:
            self._children.discard(child)
            if child.gone:  # else its guardian goes on alone, and removes the group at its end
                self._in_background(self._groups.give_back, child.leaf)
        if not self._children:
            self._all_gone.set()
        alive = [_remember(one) for one in self._children if one.pid]
        self._in_background(self._save, alive)

    def _in_background(self, work: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # closed
            self._recorder.submit(work, *arguments)

    def _save(self, alive: list[Remembered]) -> None:
        with suppress(OSError):  # the marks in the environment find them too
            self._memory.save(alive)


def _remember(child: GuardedProcess) -> Remembered:
    named = {(one.pid, one.start) for one in (child.guardian, child.leader) if one is not None}
    return Remembered(child.spec.name, tuple(sorted(named | child.known)), child.leaf.folders)
