"""Faults 3 and 4: the daemon is killed; nothing that it started outlives it, and a next life finishes what is left."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from supervisord.adapters.process import guardian, launch, leftovers
from supervisord.adapters.process.leftovers import Memory, Remembered
from tests.adapters.process import small_daemon
from tests.adapters.process.groups import FUGITIVE, needs
from tests.adapters.process.recorder import ESCAPE, alive, sh
from tests.fakes.leaves import mine, standing

FIVE_S = 5.0  # the promise


def wait_for(condition: Callable[[], bool], limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Daemon:
    """A small daemon in a process of its own."""

    def __init__(self, state: Path, loop: str, programs: dict[str, str], before: str = "") -> None:
        command = [sys.executable, small_daemon.__file__, str(state), loop]
        if before:  # a change of mounts that only it sees
            command = ["unshare", "--mount", "sh", "-c", f'{before}; exec "$@"', "-", *command]
        command += [f"{name}={program}" for name, program in programs.items()]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path.cwd(),
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        self.text = ""

    def said(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + 15
        while (found := re.search(pattern, self.text, re.MULTILINE)) is None:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"{pattern} not in {self.text}"
            self.text += data.decode()
        return found

    def pid(self, name: str) -> int:
        return int(self.said(rf"{name}=(\d+)$")[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.said("daemon: down")
        assert self.process.wait(10) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def orphans_are_not_ours() -> None:
    """A host in this process, in an earlier test, made it a subreaper: the children of daemons that are killed here."""
    guardian.prctl(guardian.PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    daemons: list[Daemon] = []

    def starting(**programs: str) -> Daemon:
        daemons.append(Daemon(tmp_path / "state", request.param, programs))
        return daemons[-1]

    yield starting
    for daemon in daemons:
        daemon.close()


def test_row_3_nothing_outlives_a_killed_daemon(start: Callable[..., Daemon]) -> None:
    """With a worker that ignores signals, left its session, and whose parent has ended."""
    daemon = start(one=ESCAPE + "time.sleep(1000)", two="import time\nprint('ready=1')\ntime.sleep(1000)")
    pids = [daemon.pid("one: escaped"), daemon.pid("one: leader"), daemon.pid("one: guardian")]
    pids += [daemon.pid("two: guardian")]
    daemon.said("two: ready")
    daemon.kill()
    wait_for(lambda: not any(alive(pid) for pid in pids), FIVE_S)


def test_nothing_outlives_a_daemon_whose_leader_has_ended(start: Callable[..., Daemon]) -> None:
    daemon = start(one=ESCAPE)
    escaped = daemon.pid("one: escaped")
    daemon.said("one: exited 0")
    daemon.kill()
    wait_for(lambda: not alive(escaped), FIVE_S)


def test_a_stopped_tree_dies_too(start: Callable[..., Daemon]) -> None:
    daemon = start(one=ESCAPE + "time.sleep(1000)")
    pids = [daemon.pid("one: escaped"), daemon.pid("one: leader")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    daemon.kill()
    wait_for(lambda: not any(alive(pid) for pid in pids), FIVE_S)


def test_an_orderly_end_leaves_nothing(start: Callable[..., Daemon]) -> None:
    daemon = start(one=ESCAPE + "time.sleep(1000)")
    pids = [daemon.pid("one: escaped"), daemon.pid("one: leader"), daemon.pid("one: guardian")]
    daemon.said("daemon: up")
    daemon.end()
    assert not any(alive(pid) for pid in pids)
    assert start().said("daemon: up|leftover")[0] == "daemon: up"


def test_a_next_life_kills_what_guardian_and_daemon_left(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Both were killed at once: a worker in its own session is known by record, mark and parent."""
    daemon = start(one=ESCAPE + "time.sleep(1000)")
    escaped, leader = daemon.pid("one: escaped"), daemon.pid("one: leader")
    record = tmp_path / "state" / "run" / "children.json"
    wait_for(lambda: str(escaped) in record.read_text())
    daemon.process.send_signal(signal.SIGSTOP)  # it must not clean up after the guardian
    os.kill(daemon.pid("one: guardian"), signal.SIGKILL)
    daemon.kill()
    wait_for(lambda: not alive(leader), FIVE_S)
    assert alive(escaped)
    following = start()
    following.said(rf"leftover: killed pid {escaped} \(python[\d.]*\) left by an earlier life as backend one$")
    following.said("daemon: up")
    assert not alive(escaped)


def test_a_stopped_guardian_is_dealt_with_by_the_next_life(start: Callable[..., Daemon]) -> None:
    daemon = start(one=ESCAPE + "time.sleep(1000)")
    pids = [daemon.pid("one: escaped"), daemon.pid("one: leader"), daemon.pid("one: guardian")]
    os.kill(pids[2], signal.SIGSTOP)
    daemon.kill()
    following = start()
    following.said("daemon: up")
    assert not any(alive(pid) for pid in pids)
    assert len(re.findall("leftover: killed", following.text)) == 3


@pytest.mark.root
@needs("memory")
def test_row_3_the_control_groups_go_with_a_killed_daemon(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """The guardian removes them when nobody else will."""
    daemon = start(one=FUGITIVE)
    fugitive = daemon.pid("one: fugitive")
    ours = standing(tmp_path / "state")
    assert {pid for folder in ours for pid in guardian.group_pids((str(folder),))} >= {fugitive}
    daemon.kill()
    wait_for(lambda: not standing(tmp_path / "state"), FIVE_S)
    assert not alive(fugitive)


@pytest.mark.root
@needs("memory")
def test_a_group_that_the_guardian_cannot_remove_is_for_the_next_life(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start(one="import time\nprint('ready=1')\ntime.sleep(1000)")
    daemon.pid("one: ready")
    left = standing(tmp_path / "state")
    for folder in left:
        (folder / "inner").mkdir()
    daemon.kill()
    wait_for(lambda: not alive(daemon.pid("one: guardian")), FIVE_S)
    assert standing(tmp_path / "state") == left
    assert start().said("daemon: up|leftover")[0] == "daemon: up"
    assert standing(tmp_path / "state") == set()


@pytest.mark.root
@needs("memory")
def test_a_next_life_kills_what_only_its_control_group_tells_of(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Without mark, session and parent of the tree, and the record is lost; nothing stays, not the groups either."""
    daemon = start(one=FUGITIVE)
    fugitive = daemon.pid("one: fugitive")
    daemon.process.send_signal(signal.SIGSTOP)  # it must not clean up after the guardian
    os.kill(daemon.pid("one: guardian"), signal.SIGKILL)
    daemon.kill()
    (tmp_path / "state" / "run" / "children.json").unlink()
    assert alive(fugitive)
    assert standing(tmp_path / "state")
    following = start()
    following.said(rf"leftover: killed pid {fugitive} \(python[\d.]*\) left by an earlier life as backend one$")
    following.said("daemon: up")
    assert not alive(fugitive)
    assert "could not" not in following.text
    assert standing(tmp_path / "state") == set()


@pytest.mark.root
@needs("")
def test_groups_of_an_earlier_life_elsewhere_are_found_by_the_record(tmp_path: Path) -> None:
    """The daemon was in another group then; and what somebody else moved there is not killed with the rest."""
    memory = Memory(tmp_path)
    elsewhere = mine()[""] / f"elsewhere-{os.getpid()}"
    leaf = elsewhere / "llm-supervisord-01234567-backend-b-1"
    leaf.mkdir(parents=True)
    guilty, innocent = subprocess.Popen(["sleep", "1000"]), subprocess.Popen(["sleep", "1000"])
    try:
        for one in (guilty, innocent):
            (leaf / "cgroup.procs").write_text(str(one.pid))
        memory.save([Remembered("b", (), (str(leaf), str(elsewhere), str(elsewhere / "llm-supervisord-gone")))])
        assert leftovers.kill_leftovers(memory, memory.instance(), (innocent.pid,)) == [
            f"killed pid {guilty.pid} (sleep) left by an earlier life as backend b",
            f"the control group {leaf} could not be removed: Device or resource busy; remove it with rmdir",
        ]
        assert alive(innocent.pid)
        innocent.kill()
        innocent.wait()
        assert leftovers.kill_leftovers(memory, memory.instance(), ()) == []
        assert not leaf.exists()
        assert elsewhere.exists(), "not a leaf of ours, whatever the record says"
    finally:
        for one in (guilty, innocent):
            one.kill()
            one.wait()
        elsewhere.rmdir()


# --- without control groups ---

READ_ONLY = (
    'for one in /sys/fs/cgroup/*; do mount --bind "$one" "$one" && mount -o remount,bind,ro "$one" || exit 1; done'
)
ABSENT = "mount -t tmpfs none /sys/fs/cgroup"
UNMOUNTED = "umount -R -l /sys/fs/cgroup"


@pytest.mark.root
@pytest.mark.skipif("__import__('os').geteuid() != 0", reason="changes mounts in a namespace of its own")
@pytest.mark.parametrize("loss", [READ_ONLY, ABSENT, UNMOUNTED], ids=["read-only", "hidden", "unmounted"])
def test_row_34_without_control_groups_everything_works(tmp_path: Path, loss: str) -> None:
    daemon = Daemon(tmp_path / "state", "asyncio", {"one": ESCAPE + "time.sleep(1000)"}, before=loss)
    try:
        assert daemon.said(r"^groups: (\w+): (.*)$")[1] == "none"
        assert daemon.said(r"^groups: (\w+): (.*)$")[2]
        pids = [daemon.pid("one: escaped"), daemon.pid("one: leader"), daemon.pid("one: guardian")]
        assert "not in its control group" not in daemon.text
        daemon.kill()
        wait_for(lambda: not any(alive(pid) for pid in pids), FIVE_S)
        assert standing(tmp_path / "state") == set()
    finally:
        daemon.close()


# --- the guardian alone ---

# Leaves a worker in the group of the leader, with the default answer to SIGTERM.
WORKER = "import os, signal, time; signal.signal(15, signal.SIG_DFL); os.fork() and os._exit(0); time.sleep(1000)"


def guardian_of(daemon: int, marker: Path, last: str = "sleep 1000") -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A guardian that is told `daemon` as its parent, about to start a program that makes the file `marker`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return started_guardian(daemon, sh(f"trap '' TERM; touch {marker}; exec {last}").argv, theirs), ours


def started_guardian(
    daemon: int, argv: Sequence[str], theirs: socket.socket, groups: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    description = os.memfd_create("description")
    os.write(description, guardian.pack(list(argv), {"PATH": os.environ["PATH"]}, groups=groups))
    os.lseek(description, 0, os.SEEK_SET)
    script = 'exec 3<&"$1" 4<&"$2"; shift 2; exec "$@"'
    command = ["bash", "-c", script, "-", str(theirs.fileno()), str(description), *launch.COMMAND, "b", str(daemon)]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(), description))
    theirs.close()
    os.close(description)
    return process


def test_row_4_a_daemon_killed_before_its_guardian_ran_has_no_backend(tmp_path: Path) -> None:
    """Its parent is another process by then, whether or not the number of the daemon is in use again."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    for daemon in (ended.pid, 1):
        process, control = guardian_of(daemon, tmp_path / "ran")
        assert process.wait(10) == 0
        assert control.recv(100) == b""
        control.close()
    assert not (tmp_path / "ran").exists()


@pytest.mark.root
@needs("")
@pytest.mark.parametrize("moment", ["before its guardian ran", "while the program was not found"])
def test_row_4_the_control_group_of_a_backend_that_never_ran_goes_too(moment: str) -> None:
    """The daemon was killed then: until a next life, nobody but the guardian knows of the group."""
    leaf = mine()[""] / f"llm-supervisord-01234567-backend-b-{os.getpid()}"
    leaf.mkdir()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    daemon, status = (1, 0) if moment == "before its guardian ran" else (os.getpid(), guardian.CANNOT_START)
    try:
        assert started_guardian(daemon, ["/no/such/program"], theirs, (str(leaf),)).wait(10) == status
        assert not leaf.exists()
    finally:
        with suppress(FileNotFoundError):
            leaf.rmdir()


def test_a_lost_control_socket_alone_ends_everything(tmp_path: Path) -> None:
    process, control = guardian_of(os.getpid(), tmp_path / "ran")
    told = json.loads(control.recv(100))
    wait_for((tmp_path / "ran").exists)
    control.close()
    assert process.wait(FIVE_S) == 0
    assert not alive(told["pid"])


def test_a_term_after_the_leader_has_ended_reaches_nobody(tmp_path: Path) -> None:
    """The number of its group may be anybody's by then; here a worker that would die of it still has it."""
    process, control = guardian_of(os.getpid(), tmp_path / "ran", f"{sys.executable} -c '{WORKER}'")
    told = [json.loads(control.recv(100))["event"] for _ in range(2)]
    assert told == ["spawned", "exited"]
    control.send(b"term")
    control.settimeout(0.3)
    with pytest.raises(TimeoutError):
        control.recv(100)
    control.settimeout(10)
    control.send(b"kill")
    assert json.loads(control.recv(100)) == {"event": "gone"}
    assert process.wait(FIVE_S) == 0
    control.close()


def test_a_lost_daemon_ends_everything_although_its_socket_lives_on(tmp_path: Path) -> None:
    """A process that the daemon forked may hold a copy of the socket."""
    marker = tmp_path / "ran"
    program = f"""
import os, socket, sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from tests.adapters.process.test_daemon_death import guardian_of
process, control = guardian_of(os.getpid(), Path({str(marker)!r}))
print(process.pid, control.recv(100).decode(), flush=True)
if os.fork() == 0:
    os.close(1)
    input()
    os._exit(0)
sys.stdin.close()
os.kill(os.getpid(), 9)
"""
    daemon = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    assert daemon.stdin is not None
    pid, told = daemon.stdout.readline().decode().split(" ", 1)
    wait_for(lambda: not alive(int(pid)) and not alive(json.loads(told)["pid"]), FIVE_S)
    daemon.wait(10)
    daemon.stdin.close()
    daemon.stdout.close()


# --- what is remembered ---


def test_a_reused_pid_is_left_alone(tmp_path: Path) -> None:
    """A record names pids whose processes have ended; now others have these numbers."""
    memory = Memory(tmp_path)
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        now = guardian.read_process(stranger.pid)
        memory.save([Remembered("b", ((now.pid, now.start - 1),))])
        assert leftovers.kill_leftovers(memory, memory.instance(), ()) == []
        assert alive(stranger.pid)
        assert not guardian.signal_exactly(_older(now), signal.SIGKILL)
        assert alive(stranger.pid)
        memory.save([Remembered("b", ((now.pid, now.start),))])
        assert leftovers.kill_leftovers(memory, memory.instance(), (stranger.pid,)) == []  # a guardian of this life
        (told,) = leftovers.kill_leftovers(memory, memory.instance(), ())
        assert told == f"killed pid {stranger.pid} (sleep) left by an earlier life as backend b"
    finally:
        stranger.kill()
        stranger.wait()
    assert not guardian.signal_exactly(now, signal.SIGKILL)


def _older(now: guardian.Process) -> guardian.Process:
    other = guardian.read_process(now.pid)
    other.start -= 1
    return other


def test_another_boot_and_another_installation_are_left_alone(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    instance = memory.instance()
    assert Memory(tmp_path).instance() == instance
    marked = {launch.INSTANCE: instance + "x", launch.BACKEND: "b"}
    stranger = subprocess.Popen(["sleep", "1000"], env={**os.environ, **marked})
    try:
        now = guardian.read_process(stranger.pid)
        memory.save([Remembered("b", ((now.pid, now.start),))])
        file = tmp_path / "run" / "children.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "boot": "another"}))
        assert memory.load() == []
        assert leftovers.kill_leftovers(memory, instance, ()) == []
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"boot": 1}', "null"])
def test_a_damaged_record_is_said_and_marks_still_find(tmp_path: Path, damage: str) -> None:
    memory = Memory(tmp_path)
    instance = memory.instance()
    if damage == '{"boot": 1}':
        damage = json.dumps({"boot": memory._boot, "backends": [{"name": 1}]})
    (tmp_path / "run" / "children.json").write_text(damage)
    marked = {launch.INSTANCE: instance, launch.BACKEND: "found"}
    leftover = subprocess.Popen(["sleep", "1000"], env={**os.environ, **marked})
    try:
        unreadable, killed = leftovers.kill_leftovers(memory, instance, ())
        assert "the record of running processes is unreadable" in unreadable
        assert killed == f"killed pid {leftover.pid} (sleep) left by an earlier life as backend found"
    finally:
        leftover.kill()
        leftover.wait()


def test_what_marks_the_daemon_itself_does_not_kill_it(tmp_path: Path) -> None:
    """Somebody starts the daemon from a shell below a backend: it and its parents carry the mark."""
    memory = Memory(tmp_path)
    program = f"""
import sys
from pathlib import Path
from supervisord.adapters.process.leftovers import Memory, kill_leftovers
memory = Memory(Path({str(tmp_path)!r}))
print(kill_leftovers(memory, memory.instance(), ()))
"""
    env = {**os.environ, launch.INSTANCE: memory.instance(), launch.BACKEND: "b", "PYTHONPATH": str(Path.cwd())}
    nested = ["sh", "-c", '"$@"; exit $?', "-", sys.executable, "-c", program]
    done = subprocess.run(nested, env=env, capture_output=True, timeout=20, check=True)
    assert done.stdout == b"[]\n"


def test_what_does_not_die_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, or stuck in the kernel: here its signals are lost, and the wait is short."""
    monkeypatch.setattr(leftovers, "signal_exactly", lambda target, number: False)
    monkeypatch.setattr(leftovers, "WAIT_S", 0.1)
    memory = Memory(tmp_path)
    leftover = subprocess.Popen(["sleep", "1000"])
    try:
        now = guardian.read_process(leftover.pid)
        memory.save([Remembered("b", ((now.pid, now.start),))])
        (told,) = leftovers.kill_leftovers(memory, memory.instance(), ())
        assert told.startswith(f"could not kill pid {leftover.pid} (sleep) left by an earlier life as backend b: it")
    finally:
        leftover.kill()
        leftover.wait()
