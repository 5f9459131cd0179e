"""Starting a guardian, and saying in words why a start failed."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from supervisord.adapters.process import guardian
from supervisord.adapters.process.cgroups import NO_LEAF, Leaf
from supervisord.adapters.process.guardian import Process
from supervisord.adapters.process.log_drain import READ_SIZE
from supervisord.adapters.process.shortage import is_shortage, remedy
from supervisord.core.errors import SpawnError
from supervisord.ports import ProcessSpec

INSTANCE, BACKEND, GENERATION = "LLM_SUPERVISORD_INSTANCE", "LLM_SUPERVISORD_BACKEND", "LLM_SUPERVISORD_GENERATION"

# What the service manager told the daemon about itself; a backend that believed it would speak in the daemon's name.
_DAEMON_ONLY = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "INVOCATION_ID",
    "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MANAGERPID", "MAINPID", "CREDENTIALS_DIRECTORY", "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE", INSTANCE, BACKEND, GENERATION,
)  # fmt: skip

# Isolated, no site packages, environment ignored: nothing of the backend's configuration reaches the guardian.
COMMAND: tuple[str, ...] = (sys.executable, "-I", "-S", "-E", guardian.__file__)
INTERPRETER_NEEDS: tuple[str, ...] = ("LD_LIBRARY_PATH",)  # some builds of Python do not start without it

_MOST_PROCESSORS = 8192  # no kernel is built for more (CONFIG_NR_CPUS)

# Trying again can help; everything else in the way of fork and exec needs somebody to change something.
_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY, errno.EIO, errno.EINTR}


@dataclass(frozen=True, slots=True)
class Launched:
    """A guardian that has been started, and the daemon's ends of everything it shares with it."""

    guardian: Process
    pidfd: int
    control: socket.socket
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close all but the two pipes, which their drain closes."""
        self.control.close()
        os.close(self.pidfd)


def marks(instance: str, spec: ProcessSpec) -> dict[str, str]:
    """The environment variables by which a process of ours is known, whoever its parent has become."""
    return {INSTANCE: instance, BACKEND: spec.name, GENERATION: str(spec.generation)}


def environment(
    base: Mapping[str, str], spec: ProcessSpec, instance: str, secrets: Collection[str] = ()
) -> dict[str, str]:
    """The daemon's environment without what is its own, then the backend's, then the marks."""
    return inherited(base, secrets) | dict(spec.env) | marks(instance, spec)


def inherited(base: Mapping[str, str], secrets: Collection[str] = ()) -> dict[str, str]:
    """The daemon's environment without what is its own. `secrets`: values that no backend has any business with."""
    return {name: value for name, value in base.items() if name not in _DAEMON_ONLY and value not in secrets}


def launch(spec: ProcessSpec, env: Mapping[str, str], marked: Mapping[str, str], leaf: Leaf = NO_LEAF) -> Launched:
    """Start the guardian that starts `spec` in `leaf`. Raises SpawnError; leaves no descriptor open then."""
    _check(spec, env)
    try:
        return _launch(spec, env, marked, leaf)
    except OSError as error:
        raise failure(spec, "guardian", error.errno or 0) from error


def failure(spec: ProcessSpec, stage: str, number: int) -> SpawnError:
    """The error for `errno` number at a stage: guardian, fork, cpus, chdir or exec."""
    text = os.strerror(number)
    passing = number in _PASSING
    match stage:
        case "exec":
            message = f"cannot start {spec.name}: {_exec_problem(spec, number)}"
        case "cpus":
            message = f"cannot start {spec.name}: {_no_processors(spec.cpus)}"
        case "chdir":
            message = (
                f"cannot start {spec.name}: its working folder {spec.cwd} cannot be entered: {text}; correct `cwd`"
            )
        case _:
            passing = True  # nothing about the backend was tried yet
            message = f"cannot start {spec.name}: the system refuses a new process: {text}{remedy(number)}"
    return SpawnError(message, permanent=not passing, shortage=is_shortage(number))


def _no_processors(cpus: Sequence[int]) -> str:
    named = ", ".join(map(str, cpus[:16])) + (", …" if len(cpus) > 16 else "")
    return f"none of its processors ({named}) exists and may be used by the daemon; correct `cpus` or `numa_node`"


def _exec_problem(spec: ProcessSpec, number: int) -> str:
    program = spec.argv[0]
    exists = "/" in program and (Path(spec.cwd) / program).exists()
    match number:
        case errno.ENOENT if exists:
            return (
                f"{program} is there, but not the interpreter or loader it names; install that, or fix its first line"
            )
        case errno.ENOENT | errno.ENOTDIR:
            return f"program not found: {program}; install it or set `binary` to its full path"
        case errno.EACCES:
            return f"{program} may not be executed: it must be a file with the x bit, on a file system without noexec"
        case errno.ENOEXEC:
            return (
                f"{program} is not a program this machine can run (wrong architecture, damaged, or a script without #!)"
            )
        case errno.E2BIG:
            return "its arguments and environment together are too long; shorten `args` or `env`"
        case _:
            return f"{program}: {os.strerror(number)}{remedy(number)}"


def _check(spec: ProcessSpec, env: Mapping[str, str]) -> None:
    if not spec.argv or not spec.argv[0]:
        raise SpawnError(f"cannot start {spec.name}: its command line is empty; set `command`", permanent=True)
    if any("\0" in part for part in (spec.cwd, *spec.argv, *env.keys(), *env.values())):
        raise SpawnError(f"cannot start {spec.name}: a NUL byte in its arguments or environment", permanent=True)
    if not all(0 <= number < _MOST_PROCESSORS for number in spec.cpus):
        raise SpawnError(f"cannot start {spec.name}: {_no_processors(spec.cpus)}", permanent=True)


def _launch(spec: ProcessSpec, env: Mapping[str, str], marked: Mapping[str, str], leaf: Leaf) -> Launched:
    with ExitStack() as ours:
        with ExitStack() as theirs:
            stdout, stdout_writer = _pipe(ours, theirs)
            stderr, stderr_writer = _pipe(ours, theirs)
            control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(control.close)
            theirs.callback(control_theirs.close)
            control.setblocking(False)  # noqa: FBT003 - the signature of the standard library
            description = os.memfd_create("description", os.MFD_CLOEXEC)
            theirs.callback(os.close, description)
            os.write(description, _packed(spec, env, leaf))
            os.lseek(description, 0, os.SEEK_SET)
            sources = (stdout_writer, stderr_writer, control_theirs.fileno(), description)
            pid = _spawn(spec.name, sources, marked)
        try:
            process = guardian.read_process(pid)  # a child keeps its pid until it is reaped
            pidfd = os.pidfd_open(pid)
        except OSError:  # other threads took the descriptors that had just become free
            control.close()  # upon which the guardian ends
            os.waitpid(pid, 0)
            raise
        ours.pop_all()
    return Launched(process, pidfd, control, stdout, stderr)


def _packed(spec: ProcessSpec, env: Mapping[str, str], leaf: Leaf) -> bytes:
    return guardian.pack(
        list(spec.argv),
        dict(env),
        cwd=spec.cwd,
        nice=spec.nice,
        oom_score_adj=spec.oom_score_adj,
        cpus=spec.cpus,
        memory_node=spec.memory_node,
        groups=leaf.folders,
        notes=leaf.notes,
    )


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, reader)
    theirs.callback(os.close, writer)
    os.set_blocking(reader, False)
    with suppress(OSError):  # the user's share of pipe memory is used up: the default size does
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, READ_SIZE)
    return reader, writer


def _spawn(name: str, sources: tuple[int, ...], marked: Mapping[str, str]) -> int:
    """posix_spawn: like vfork it copies no page tables, so it is quick and needs no memory however big the daemon.

    No target overwrites a source still to come: descriptors are given out lowest first, and each of `sources` was
    opened after enough others to be at or above its target.
    """
    targets = (1, 2, guardian.CONTROL, guardian.DESCRIPTION)
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    duplicates = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in zip(sources, targets, strict=True)]
    needed = {key: os.environ[key] for key in INTERPRETER_NEEDS if key in os.environ}
    command = [*COMMAND, name, str(os.getpid())]
    return os.posix_spawn(command[0], command, {**marked, **needed}, file_actions=[*actions, *duplicates])
