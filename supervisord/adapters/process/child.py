"""One backend's process tree as the daemon sees it: messages of its guardian in, events out."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from supervisord.adapters.process import oomd, tree
from supervisord.adapters.process.cgroups import NO_LEAF, Leaf
from supervisord.adapters.process.guardian import Process, process
from supervisord.adapters.process.launch import Launched, failure
from supervisord.adapters.process.log_drain import LogDrain
from supervisord.adapters.process.log_writer import LogFile
from supervisord.adapters.process.orphans import OrphanHunt, Quarry
from supervisord.core.errors import SpawnError
from supervisord.core.memory import GroupUsage, TreeUsage
from supervisord.ports import LogState, ProcessEvents, ProcessSpec

_NOTHING = TreeUsage((), 0, 0, 0.0)


class _Nobody:
    """Takes the events of a process whose start was given up."""

    def exited(self, status: int) -> None: ...

    def tree_gone(self) -> None: ...

    def output(self, line: str) -> None: ...


class GuardedProcess:
    """Implements `ports.ManagedProcess`. Lives on the loop; `changed` is told whenever what to remember has changed."""

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        launched: Launched,
        marks: Mapping[str, str],
        file: LogFile,
        events: ProcessEvents,
        changed: Callable[["GuardedProcess"], None],
        leaf: Leaf = NO_LEAF,
    ) -> None:
        self.spec = spec
        self.leaf = leaf
        self.pid = 0
        self.leader: Process | None = None
        self.known: frozenset[tuple[int, int]] = frozenset()  # pid and start of the tree when last looked at
        self.stuck: tuple[int, ...] = ()  # pids that SIGKILL did not end within 5 s: they hang in the kernel
        self.ended = False
        self.gone = False  # nothing of the tree is left; it may end without, when the daemon does
        self._launched = launched
        self._marks = marks
        self.guardian = launched.guardian
        self._events = events
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._drain = LogDrain((launched.stdout, launched.stderr), file, spec.generation, self._on_line)
        self._usage = _NOTHING
        self._group: GroupUsage | None = None
        self._outside = False  # it could not join its control group, whose counters say nothing of it then
        self._exited = self._told_gone = False
        self._hunt: OrphanHunt | None = None
        self._watch()

    # --- what the port promises ---

    def terminate(self) -> None:
        if not self._exited:
            self._send(b"term")

    def kill(self) -> None:
        self._send(b"kill")

    def tail(self, lines: int) -> Sequence[str]:
        return self._drain.tail(lines)

    def log_state(self) -> LogState:
        return self._drain.state()

    async def usage(self) -> TreeUsage:
        if self.ended:
            return _NOTHING
        with suppress(OSError):  # no descriptor left to look with: what was last seen is the best answer
            members, self._usage = await asyncio.to_thread(self._look)
            known = frozenset((one.pid, one.start) for one in members)
            if known != self.known and not self.ended:
                self.known = known
                self._changed(self)
        return self._usage

    def group_usage(self) -> GroupUsage | None:
        """As it is now; of an ended tree as it was at the end."""
        if not self.ended:
            self._group = self._read_group() or self._group
        return self._group

    async def demand(self) -> Mapping[int, float]:
        if self.ended:
            return {}
        with suppress(OSError):
            return await asyncio.to_thread(tree.demand, self._usage.pids)
        return {}

    async def owns_port(self, port: int) -> bool:
        if self.ended:
            return False
        with suppress(OSError):  # unknown is not owned
            return await asyncio.to_thread(lambda: tree.listens(tree.members(self.guardian, self.leaf.folders), port))
        return False

    # --- what the host calls ---

    async def started(self) -> None:
        """Returns once the backend's program runs; events begin after that. Raises SpawnError."""
        await self._started
        self._loop.call_soon(self._begin)

    def abandon(self) -> None:
        """Nobody wants it any more: end it, tell nobody, and give back what it holds once it is gone."""
        self._events = _Nobody()
        self._started.cancel()
        if not self.ended:
            self.kill()
            self._watch()

    def let_go(self) -> None:
        """The daemon ends: the guardian does the rest alone."""
        self._events = _Nobody()
        self._end()

    # --- the guardian's messages ---

    def _begin(self) -> None:
        if self.ended:
            return
        self._drain.header(f"--- generation {self.spec.generation} started, pid {self.pid}")
        self._drain.start()
        self._watch()

    def _watch(self) -> None:
        self._loop.add_reader(self._launched.control, self._on_message)
        self._loop.add_reader(self._launched.pidfd, self._on_guardian_ended)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._launched.control)
        self._loop.remove_reader(self._launched.pidfd)

    def _send(self, command: bytes) -> None:
        if not self.ended:
            with suppress(OSError):  # the guardian has just ended: then its end is what matters
                self._launched.control.send(command)
                signal.pidfd_send_signal(self._launched.pidfd, signal.SIGCONT)  # somebody may have stopped it

    def _on_message(self) -> None:
        message = self._receive()
        if message:
            self._handle(message)
        elif message is not None:
            self._loop.remove_reader(self._launched.control)

    def _receive(self) -> bytes | None:
        """One message; b"" at the end of the guardian, None when there is none now."""
        try:
            return self._launched.control.recv(64 * 1024)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _handle(self, message: bytes) -> None:
        told = json.loads(message)
        match told["event"]:
            case "spawned":
                self.pid, self._outside = told["pid"], told["outside"]
                self.leader = process(self.pid)
                self._answer_start(None)
            case "failed":
                self._answer_start(failure(self.spec, told["stage"], told["errno"]))
            case "exited":
                self._on_exited(told["status"])
            case "stuck":
                self.stuck = tuple(told["pids"])
            case _:
                self._told_gone = True

    def _answer_start(self, error: SpawnError | None) -> None:
        if self._started.done():
            return
        if error is None:
            self._unwatch()  # nothing is told until the caller holds the process
            self._started.set_result(None)
        else:
            self._events = _Nobody()  # it never was a process
            self._told_gone = True
            self._started.set_exception(error)

    def _on_exited(self, status: int) -> None:
        self._exited = True
        self._drain.catch_up()
        self._events.exited(status)

    def _on_line(self, line: str) -> None:
        self._events.output(line)

    def _on_guardian_ended(self) -> None:
        starting = not self._started.done()
        while message := self._receive():
            self._handle(message)
        if starting and self.pid:
            return  # the caller comes first; the end is told again once events have begun
        self._loop.remove_reader(self._launched.pidfd)
        with suppress(ChildProcessError):  # somebody set SIGCHLD to be ignored: the kernel has reaped it
            os.waitpid(self.guardian.pid, 0)
        if not self._started.done():
            self._drain.catch_up()
            self._answer_start(self._silent_end())
        if self._told_gone or not self.pid:
            self._finish()
        else:
            self._hunt_orphans()

    def _silent_end(self) -> SpawnError:
        words = " ".join(self.tail(3)) or "it said nothing"
        return SpawnError(f"cannot start {self.spec.name}: its guardian process ended early: {words}", permanent=False)

    def _hunt_orphans(self) -> None:
        """Somebody killed the guardian: its children are ours now."""
        quarry = Quarry(self._marks, self.guardian, self.leader, self.known, self.leaf.folders)
        leader = 0 if self._exited else self.pid
        self._hunt = OrphanHunt(quarry, leader, exited=self._on_exited, gone=self._finish)
        self._hunt.start()

    def _finish(self) -> None:
        self.group_usage()  # the last look: the host removes the group
        self.gone = True
        self._end()
        events, self._events = self._events, _Nobody()
        events.tree_gone()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._unwatch()
        if self._hunt is not None:
            self._hunt.stop()
            self._hunt = None
        self._drain.close()
        self._launched.close()
        self._changed(self)

    def _look(self) -> tuple[list[Process], TreeUsage]:
        members = tree.members(self.guardian, self.leaf.folders)
        return members, replace(tree.measure(self.guardian, members), group=self._read_group())

    def _read_group(self) -> GroupUsage | None:
        if self._outside:
            return None
        usage, kills = self.leaf.usage(), oomd.kills(self.leaf.folders)
        return usage if usage is None or kills is None else replace(usage, oomd_kills=kills)
