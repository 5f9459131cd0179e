"""The program between the daemon and one backend: it starts the backend, reaps and reports, and kills its whole tree.

Run as `python -I -S -E guardian.py BACKEND DAEMON_PID` with descriptor 3 the control socket, 4 the description of what
to start, 1 and 2 the pipes that become the backend's stdout and stderr. It stands alone (standard library only, few
imports): one of it sits in memory for each backend, measured 5 MB of its own and 20 ms to start.

Why a program of its own: PR_SET_PDEATHSIG reaches the direct child only, and is sent when the forking *thread* ends. A
subreaper that waits for the daemon's end and then kills every descendant keeps the promise for grandchildren too.

The control socket keeps message borders. From the daemon: `term` (SIGTERM and SIGCONT to the group of the leader),
`kill` (SIGKILL to the whole tree until none is left). To the daemon, as JSON: `spawned`, `failed`, `exited`, `stuck`,
`gone`. The end of the control socket, or of the daemon, is a `kill`.
"""

import ctypes
import errno
import os
import select
import signal
import sys
import time

CONTROL, DESCRIPTION = 3, 4  # descriptors; 0 is /dev/null, 1 and 2 are the pipes of the backend
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36  # <linux/prctl.h>
STUCK_AFTER_S = 5.0  # a process that is still there so long after SIGKILL hangs in the kernel (state D)
STUCK_TOLD = 100  # of them at most are named: a message has to fit its reader
PAUSE_S, PAUSE_MAX_S, PAUSE_STUCK_S = 0.01, 0.1, 1.0  # between two rounds of killing
REMOVE_TRIES = 10  # a control group is busy until the kernel has let go of its last process
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the whole system is short: asked again, it may know
CANNOT_START = 127
OUTSIDE = "outside "  # a report begins with it where the backend could not join its control group
MPOL_PREFERRED = 1  # <linux/mempolicy.h>
MOST_NODES = 1024  # of the mask; a power of two no kernel exceeds (CONFIG_NODES_SHIFT is at most 10)
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "riscv64": 237, "ppc64le": 261, "s390x": 270}  # <asm/unistd.h>


class Process:
    """What /proc/PID/stat tells. `start` (clock ticks since boot) and `pid` together name a process for ever."""

    __slots__ = ("children_ticks", "group", "parent", "pid", "session", "start", "state", "ticks")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split(None, 20)  # the name before it may contain anything
        self.pid = pid
        self.state = fields[0].decode()
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        self.ticks = int(fields[11]) + int(fields[12])
        self.children_ticks = int(fields[13]) + int(fields[14])
        self.start = int(fields[19])


def read_process(pid: int) -> Process:
    """The process, a zombie too. Raises OSError when there is none."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs the guardian 2 MB
        return Process(pid, file.read(1024))


def process(pid: int) -> Process | None:
    """The same, None when there is none. Raises OSError when the system cannot say, for want of descriptors."""
    try:
        return read_process(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes() -> dict[int, Process]:
    """Every process there is, by pid. Raises OSError rather than leave one out."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - as above
    return {one.pid: one for one in found if one is not None}


def descendants(roots: "set[int]", table: "dict[int, Process]") -> "list[Process]":
    """The processes below `roots`, parents first, without the roots."""
    children: dict[int, list[Process]] = {}
    for one in table.values():
        children.setdefault(one.parent, []).append(one)
    found: list[Process] = []
    level = [child for root in roots for child in children.get(root, ())]
    while level:
        found += level
        level = [child for one in level for child in children.get(one.pid, ())]
    return found


def signal_exactly(target: Process, number: int) -> bool:
    """Signal this very process, never one that got its pid later. False when it has ended or may not be signalled."""
    try:
        descriptor = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        if read_process(target.pid).start != target.start:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def group_members(folders: "tuple[str, ...]") -> "list[Process]":
    """The processes of these control groups, zombies left out.

    Read twice: a pid that was given anew in between belongs to somebody else.
    """
    before = group_pids(folders)
    found = [one for pid in before if (one := process(pid)) is not None and one.state not in "ZX"]
    still = group_pids(folders) if found else before
    return [one for one in found if one.pid in still]


def group_pids(folders: "tuple[str, ...]") -> "set[int]":
    """What control groups list, without those of another PID namespace (shown as 0).

    Raises OSError when the system cannot say, for want of descriptors or memory.
    """
    pids: set[int] = set()
    for folder in folders:
        try:
            with open(f"{folder}/cgroup.procs", "rb") as file:  # noqa: PTH123 - as above
                pids.update(map(int, file.read().split()))
        except OSError as error:  # removed, or made `threaded` by the backend
            if error.errno in PASSING:
                raise
    return pids - {0}


def kill_group(folder: str) -> None:
    """SIGKILL to all of a control group at once: version 2, Linux 5.14 and later. Elsewhere nothing happens."""
    write_file(f"{folder}/cgroup.kill", b"1")


def write_file(path: str, value: bytes) -> int:
    """Write to a file that exists; 0, or the errno."""
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        os.write(descriptor, value)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def signal_group(group: int, number: int) -> None:
    """Signal a process group if it still exists and may be signalled."""
    try:
        os.killpg(group, number)
    except OSError:
        return


def prctl(option: int, value: "int | bytes") -> None:
    """prctl(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if libc.prctl(option, argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Description:
    """What to start, as the daemon packed it: NUL-terminated strings, since none of them can hold a NUL."""

    __slots__ = ("argv", "cpus", "cwd", "env", "groups", "memory_node", "nice", "notes", "oom_score_adj")

    def __init__(self, packed: bytes) -> None:
        cwd, nice, oom_score_adj, cpus, memory_node, groups, notes, count, *rest = packed.split(b"\0")[:-1]
        self.cwd = cwd
        self.nice = int(nice)
        self.oom_score_adj = oom_score_adj  # empty: as it is
        self.cpus = {int(number) for number in cpus.split()}  # empty: as they are
        self.memory_node = int(memory_node)  # below 0: the system's choice
        self.groups = lines(groups)  # folders of its control group, one in each hierarchy
        self.notes = lines(notes)  # what the log of the backend is to say first
        self.argv = rest[: int(count)]
        self.env = dict(item.split(b"=", 1) for item in rest[int(count) :])


def lines(packed: bytes) -> "tuple[str, ...]":
    return tuple(line for line in os.fsdecode(packed).split("\n") if line)


def pack(
    argv: "list[str]",
    env: "dict[str, str]",
    *,
    cwd: str = "",
    nice: int = 0,
    oom_score_adj: "int | None" = None,
    cpus: "tuple[int, ...]" = (),
    memory_node: "int | None" = None,
    groups: "tuple[str, ...]" = (),
    notes: "tuple[str, ...]" = (),
) -> bytes:
    """The counterpart of `Description`, used by the daemon."""
    adjust = "" if oom_score_adj is None else str(oom_score_adj)
    node = "-1" if memory_node is None else str(memory_node)
    joined = ("\n".join(groups), "\n".join(notes))  # the kernel allows no newline in the name of a control group
    parts = [cwd, str(nice), adjust, " ".join(map(str, cpus)), node, *joined, str(len(argv)), *argv]
    parts += [f"{name}={value}" for name, value in env.items()]
    return b"".join(os.fsencode(part) + b"\0" for part in parts)


class Guardian:
    """Starts the backend, then sleeps until a child ends, the daemon speaks, or the daemon is gone."""

    def __init__(self, daemon: int) -> None:
        self.leader = 0  # 0 once it has been reaped
        self.groups: tuple[str, ...] = ()
        self.strayed = False  # processes of its control group are left, and none of them is a child
        self.bereaved = False  # the daemon is gone, or listens no more
        self.killing_since: float | None = None
        self.stuck_told = False
        self.pause = PAUSE_S
        self.poll = select.poll()
        self.wakeup, wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        # A pidfd besides the socket: a copy of the socket's other end may live on in a process the daemon forked.
        self.daemon = os.pidfd_open(daemon)
        for descriptor in (self.wakeup, CONTROL, self.daemon):
            self.poll.register(descriptor, select.POLLIN)

    def run(self, description: Description) -> None:
        """Returns when no process of the tree is left."""
        self.groups = description.groups
        self.start(description)
        while not self.reap() or self.has_strays():
            if self.killing_since is not None:
                self.sweep(self.killing_since)
            self.wait()
        self.tell('{"event":"gone"}')
        if self.bereaved:  # else the daemon reads the counters once more, and removes the group itself
            remove_groups(self.groups)

    def start(self, description: Description) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self.fail("fork", error.errno or 0)
            raise SystemExit(CANNOT_START) from error
        if pid == 0:
            become(description, me, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            report = file.read().decode()  # ends when exec closes the pipe
        failure = report.removeprefix(OUTSIDE)
        if failure:
            os.waitpid(pid, 0)
            stage, number = failure.split()
            self.fail(stage, int(number))
            raise SystemExit(CANNOT_START)
        self.leader = pid
        outside = "true" if report.startswith(OUTSIDE) else "false"
        self.tell(f'{{"event":"spawned","pid":{pid},"outside":{outside}}}')

    def fail(self, stage: str, number: int) -> None:
        self.tell(f'{{"event":"failed","stage":"{stage}","errno":{number}}}')
        if self.bereaved:
            remove_groups(self.groups)

    def tell(self, line: str) -> None:
        try:
            os.write(CONTROL, line.encode())
        except OSError:
            self.lose_daemon()

    def reap(self) -> bool:
        """Take every ended child. True when there is no child left: as subreaper, then there is no descendant left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.leader:
                self.leader = 0
                self.tell(f'{{"event":"exited","status":{os.waitstatus_to_exitcode(status)}}}')

    def has_strays(self) -> bool:
        """Whether the control group holds processes that somebody has moved there, or taken from this tree."""
        try:
            self.strayed = bool(group_members(self.groups))
        except OSError:  # unknown is not none
            self.strayed = True
        return self.strayed

    def wait(self) -> None:
        timeout = None if self.killing_since is None else self.pause * 1000
        if timeout is None and self.strayed:  # their end is told to somebody else
            timeout = PAUSE_STUCK_S * 1000
        for descriptor, _ in self.poll.poll(timeout):
            if descriptor == self.wakeup:
                os.read(self.wakeup, 512)
            elif descriptor == self.daemon:
                self.poll.unregister(self.daemon)  # readable from now on
                self.lose_daemon()
            else:
                self.obey()

    def obey(self) -> None:
        try:
            command = os.read(CONTROL, 16)
        except OSError:
            command = b""
        if not command:
            self.poll.unregister(CONTROL)  # readable from now on
            self.lose_daemon()
        elif command != b"term":
            self.kill()
        elif self.leader:  # not reaped yet, so the number cannot belong to another group
            signal_group(self.leader, signal.SIGTERM)
            signal_group(self.leader, signal.SIGCONT)

    def lose_daemon(self) -> None:
        self.bereaved = True
        self.kill()

    def kill(self) -> None:
        if self.killing_since is None:
            self.killing_since = time.monotonic()

    def sweep(self, since: float) -> None:
        """One round of killing. Whole groups first: that is atomic, so a chain of forks within one cannot run away."""
        for folder in self.groups:
            kill_group(folder)
        tree: list[Process] = []
        try:
            tree += [one for one in descendants({os.getpid()}, processes()) if one.state not in "ZX"]
            mine = os.getsid(0)
            for group in {one.group for one in tree if one.session != mine}:
                signal_group(group, signal.SIGKILL)
            # Not the groups of these: they may be those of whoever moved them here.
            tree += group_members(self.groups)
        except OSError:
            pass  # the whole system is out of descriptors: the next round sees more
        for one in tree:
            signal_exactly(one, signal.SIGKILL)
        late = time.monotonic() - since > STUCK_AFTER_S
        if late and tree and not self.stuck_told:
            self.stuck_told = True
            self.tell(f'{{"event":"stuck","pids":{sorted({one.pid for one in tree})[:STUCK_TOLD]}}}')
        self.pause = PAUSE_STUCK_S if late else min(self.pause * 1.5, PAUSE_MAX_S)


def remove_groups(folders: "tuple[str, ...]") -> None:
    """Nobody else will. What still holds one after that is the matter of the daemon's next life."""
    for _ in range(REMOVE_TRIES):
        left = [folder for folder in folders if not removed(folder)]
        if not left:
            return
        time.sleep(PAUSE_MAX_S)


def removed(folder: str) -> bool:
    """Remove a control group; False while it is busy."""
    try:
        os.rmdir(folder)  # noqa: PTH106 - as above
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def become(description: Description, guardian: int, report: int) -> None:
    """In the forked child: turn into the backend, or tell `report` the stage that failed and its errno."""
    stage = "fork"
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:  # it ended before the line above
            os._exit(CANNOT_START)
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not join(description):
            os.write(report, OUTSIDE.encode())
        adjust(description)
        stage = "cpus"
        place(description)
        stage = "chdir"
        if description.cwd:
            os.chdir(description.cwd)
        stage = "exec"
        os.execvpe(description.argv[0], description.argv, description.env)  # noqa: S606 - no shell is what we want
    except OSError as error:
        os.write(report, f"{stage} {error.errno}".encode())
    os._exit(CANNOT_START)


def join(description: Description) -> bool:
    """Move to the control group. False where that failed: it is said in the log, and the start goes on."""
    joined = True
    for words in description.notes:
        say(words)
    for folder in description.groups:
        failed = write_file(f"{folder}/cgroup.procs", b"0")  # the process that writes
        if failed:
            joined = False
            say(f"not in its control group {folder}, whose limits do not hold then: {os.strerror(failed)}")
    return joined


def adjust(description: Description) -> None:
    """Priority and OOM score. Lowering either needs privileges: then it is said on stderr, and the start goes on."""
    try:
        if description.oom_score_adj:
            descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(descriptor, description.oom_score_adj)
            os.close(descriptor)
        if description.nice:
            os.nice(description.nice)
    except OSError as error:
        say(f"oom_score_adj or nice not set: {error.strerror}")
    if description.nice:
        # Where the kernel groups processes by session (sched(7), autogroup), nice counts only within a session. Where
        # it does not, there is no such file.
        write_file("/proc/self/autogroup", str(os.nice(0)).encode())


def place(description: Description) -> None:
    """Processors and memory. Raises OSError where none of the processors may be used; lesser trouble is only said."""
    if description.cpus:
        os.sched_setaffinity(0, description.cpus)
        refused = description.cpus - os.sched_getaffinity(0)
        if refused:
            say(f"these processors are not there, or not for it: {sorted(refused)}; the others are used")
    if description.memory_node >= 0:
        try:
            prefer_memory_of(description.memory_node)
        except OSError as error:
            say(f"memory is not taken from NUMA node {description.memory_node} first: {error.strerror}")


def prefer_memory_of(node: int) -> None:
    """set_mempolicy(2), which the C library does not wrap and containers often forbid. Raises OSError."""
    number = SET_MEMPOLICY.get(os.uname().machine)
    if number is None or node >= MOST_NODES:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    mask = (1 << node).to_bytes(MOST_NODES // 8, sys.byteorder)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), MPOL_PREFERRED, mask, ctypes.c_ulong(MOST_NODES + 1)) != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))


def say(words: str) -> None:
    """In the log of the backend."""
    os.write(2, f"llm-supervisord: {words}\n".encode())


def close_strays() -> None:
    """Close what a library of the daemon left inheritable: the backend must not hold it open."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - as above
        if int(name) > DESCRIPTION:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed the folder


def read_description() -> Description:
    os.set_inheritable(CONTROL, False)  # noqa: FBT003 - the signature of the standard library
    with os.fdopen(DESCRIPTION, "rb") as file:
        return Description(file.read())


def main(name: str, daemon: int) -> None:
    os.setsid()  # a Ctrl-C in the terminal is for the daemon, which drains
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NAME, f"guard:{name}".encode()[:15])
    close_strays()
    description = read_description()
    guardian = guardian_below(daemon)
    if guardian is None:
        remove_groups(description.groups)
    else:
        guardian.run(description)


def guardian_below(daemon: int) -> "Guardian | None":
    """None where the daemon was killed between fork and exec of this program."""
    try:
        guardian = Guardian(daemon)
    except ProcessLookupError:
        return None
    return guardian if os.getppid() == daemon else None  # its number may be somebody else's by now


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    os._exit(0)
