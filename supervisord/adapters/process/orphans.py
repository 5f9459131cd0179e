"""Killing a tree whose guardian was killed: its processes have become children of the daemon, itself a subreaper.

The leader dies with the guardian (PR_SET_PDEATHSIG). The others are known by their control group, by what was seen of
the tree, by the leader's session, by the marks in their environment (which a process may overwrite: vLLM's do), and by
their parents.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from supervisord.adapters.process import tree
from supervisord.adapters.process.guardian import (
    Process,
    descendants,
    group_members,
    kill_group,
    processes,
    signal_exactly,
)

PAUSE_S, PAUSE_MAX_S = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class Quarry:
    """What is known of the tree."""

    marks: Mapping[str, str]
    guardian: Process  # everything of the tree is younger
    leader: Process | None
    known: frozenset[tuple[int, int]]  # pid and start
    groups: tuple[str, ...] = ()  # folders of its control group

    def find(self, found_before: Collection[tuple[int, int]]) -> list[Process]:
        """What is left of it in its group, and among the descendants of this process, zombies there included."""
        grouped = {one.pid: one for one in group_members(self.groups)}
        table = {**processes(), **grouped}
        below = descendants({os.getpid()}, table)
        roots = {one.pid for one in below if (one.pid, one.start) in found_before or self._is_member(one)}
        roots |= grouped.keys()
        younger = {one.pid: one for one in descendants(roots, table)}
        return [*(table[pid] for pid in roots), *(one for pid, one in younger.items() if pid not in roots)]

    def _is_member(self, one: Process) -> bool:
        if one.start < self.guardian.start:
            return False
        if (one.pid, one.start) in self.known or (self.leader is not None and one.session == self.leader.pid):
            return True
        environment = tree.environment(one.pid)
        return all(environment.get(name) == value for name, value in self.marks.items())


class OrphanHunt:
    """Kills and reaps in a thread of its own until nothing is left; tells the loop. Created on the loop."""

    def __init__(self, quarry: Quarry, leader: int, *, exited: Callable[[int], None], gone: Callable[[], None]) -> None:
        self._quarry = quarry
        self._leader = leader  # 0: its end has been told
        self._exited = exited
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        # A daemon thread: a process that hangs in the kernel must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="orphan-hunt", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        pause = PAUSE_S
        found: set[tuple[int, int]] = set()
        while not self._stopped.is_set():
            with suppress(OSError):  # no descriptor left to look with: the next round may have one
                if self._is_over(found):
                    self._tell(self._gone)
                    return
            self._stopped.wait(pause)
            pause = min(pause * 1.5, PAUSE_MAX_S)

    def _is_over(self, found: set[tuple[int, int]]) -> bool:
        """One round. True when nothing is left. `found` grows by what is: its zombies are ours to reap."""
        left = self._quarry.find(found)
        found |= {(one.pid, one.start) for one in left}
        for folder in self._quarry.groups:
            kill_group(folder)
        for one in left:
            signal_exactly(one, signal.SIGKILL)
        for pid in {one.pid for one in left} | ({self._leader} if self._leader else set()):
            self._reap(pid)
        return not left and not self._leader

    def _reap(self, pid: int) -> None:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # the child of another process of the tree, or taken by somebody else
            ended, status = pid, signal.SIGKILL
        if ended and pid == self._leader:
            self._leader = 0
            self._tell(self._exited, os.waitstatus_to_exitcode(status))

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(callback, *arguments)
