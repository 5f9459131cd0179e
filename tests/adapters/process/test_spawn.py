"""How a backend starts: what it inherits, and what is said when it cannot start."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from supervisord.adapters.process import host as host_module
from supervisord.adapters.process import launch
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.core.errors import SpawnError
from supervisord.ports import ProcessSpec
from tests.adapters.process.recorder import Recorder, alive, descriptors, proc, py, sh, until


async def lines_of(host: LinuxProcessHost, spec: ProcessSpec) -> list[str]:
    events = Recorder()
    await host.spawn(spec, events)
    await events.until_gone()
    assert events.story == ["exited", "gone"]
    return events.lines


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -6 $$", -6)])
async def test_the_exit_status_is_told_as_it_is(host: LinuxProcessHost, script: str, status: int) -> None:
    events = Recorder()
    process = await host.spawn(sh(script), events)
    assert await events.until_exited() == status
    await events.until_gone()
    process.terminate()
    process.kill()
    assert await process.usage() == type(await process.usage())((), 0, 0, 0.0)
    assert not await process.owns_port(1)


async def test_events_begin_after_spawn_has_returned(host: LinuxProcessHost) -> None:
    events = Recorder()
    process = await host.spawn(sh("echo early"), events)
    assert events.story == []
    assert events.lines == []
    assert process.pid > 0
    await events.until_gone()
    assert events.lines == ["early"]


async def test_it_leads_its_own_session_with_nothing_inherited(host: LinuxProcessHost) -> None:
    stray = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(stray, True)
    program = """
import os
print("fds", sorted(os.listdir("/proc/self/fd"), key=int)[:-1])  # the last one lists the folder
print("null", os.readlink("/proc/self/fd/0"))
print("own", os.getpid() == os.getsid(0) == os.getpgid(0))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("blocked", int(status["SigBlk"], 16))
"""
    try:
        lines = await lines_of(host, py(program))
    finally:
        os.close(stray)
    assert lines == ["fds ['0', '1', '2']", "null /dev/null", "own True", "blocked 0"]


async def test_no_signal_is_ignored_although_daemon_and_guardian_ignore_some(host: LinuxProcessHost) -> None:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        lines = await lines_of(host, sh("grep SigIgn /proc/self/status"))
    finally:
        signal.signal(signal.SIGUSR2, before)
    ignored = int(lines[0].split()[1], 16)
    assert ignored & ~(0b11 << 31) == 0  # 32 and 33 belong to the C library and cannot be set by anybody


async def test_the_environment_is_the_daemons_without_its_own_affairs(
    host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("LLM_SUPERVISORD_INSTANCE", "of another daemon")
    monkeypatch.setenv("INHERITED", "yes")
    script = 'echo "${NOTIFY_SOCKET-unset} $INHERITED $EXTRA $LLM_SUPERVISORD_BACKEND ${#LLM_SUPERVISORD_INSTANCE}"'
    assert await lines_of(host, sh(script, name="llama", EXTRA="ü")) == ["unset yes ü llama 32"]


async def test_folder_niceness_and_oom_score(host: LinuxProcessHost, tmp_path: Path) -> None:
    script = "pwd; nice; cat /proc/self/oom_score_adj"
    spec = ProcessSpec("b", 1, ("sh", "-c", script), {}, cwd=str(tmp_path), nice=os.nice(0) + 3, oom_score_adj=700)
    assert await lines_of(host, spec) == [str(tmp_path), str(os.nice(0) + 3), "700"]


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group by session")
async def test_nice_counts_against_other_sessions_too(host: LinuxProcessHost) -> None:
    spec = ProcessSpec("b", 1, ("sh", "-c", "sed 's/.* //' /proc/self/autogroup"), {}, nice=os.nice(0) + 3)
    assert await lines_of(host, spec) == [str(os.nice(0) + 3)]


async def test_a_refused_oom_score_is_said_and_does_not_stop_the_start(host: LinuxProcessHost) -> None:
    lines = await lines_of(host, ProcessSpec("b", 1, ("echo", "runs"), {}, oom_score_adj=5000))
    assert sorted(lines) == ["llm-supervisord: oom_score_adj or nice not set: Invalid argument", "runs"]


async def test_the_guardian_names_the_backend_and_lives_in_its_own_session(host: LinuxProcessHost) -> None:
    events = Recorder()
    process = await host.spawn(sh("exec sleep 100", name="qwen"), events)
    guardian = process.guardian.pid  # type: ignore[attr-defined]
    assert proc(guardian, "comm") == "guard:qwen\n"
    assert "qwen" in proc(guardian, "cmdline")
    assert os.getsid(guardian) == guardian
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guardian, number)
    process.terminate()
    assert await events.until_exited() == -signal.SIGTERM
    await events.until_gone()


def program(folder: Path, text: str, mode: int = 0o755) -> str:
    path = folder / "server"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("absent", "program not found: no-such-server; install it or set `binary`"),
        ("absent path", "program not found: /nowhere/server"),
        ("below a file", "program not found: /dev/null/server"),
        ("no x", "may not be executed"),
        ("folder", "may not be executed"),
        ("no interpreter", "is there, but not the interpreter"),
        ("no program", "is not a program this machine can run"),
        ("too long", "arguments and environment together are too long"),
        ("loop", "Too many levels of symbolic links"),
        ("no cwd", "working folder /nowhere cannot be entered: No such file or directory; correct `cwd`"),
        ("empty", "its command line is empty"),
        ("nul", "a NUL byte"),
    ],
)
async def test_what_cannot_start_until_somebody_changes_something(
    host: LinuxProcessHost, tmp_path: Path, case: str, words: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    argv = {
        "absent": ("no-such-server",),
        "absent path": ("/nowhere/server",),
        "below a file": ("/dev/null/server",),
        "no x": (program(tmp_path, "#!/bin/sh\n", 0o644),),
        "folder": (str(tmp_path),),
        "no interpreter": (program(tmp_path, "#!/nowhere/python\n"),) if case == "no interpreter" else (),
        "no program": (program(tmp_path, "text\n"),) if case == "no program" else (),
        "too long": ("echo", "x" * 3_000_000),
        "loop": (str(tmp_path / "loop"),),
        "no cwd": ("echo",),
        "empty": (),
        "nul": ("echo", "a\0b"),
    }[case]
    if case == "no x":
        program(tmp_path, "#!/bin/sh\n", 0o644)
    before = descriptors()
    events = Recorder()
    with pytest.raises(SpawnError, match=words) as caught:
        await host.spawn(ProcessSpec("b", 1, argv, {}, cwd="/nowhere" if case == "no cwd" else ""), events)
    assert caught.value.permanent
    await until(lambda: descriptors() == before)
    assert events.story == []


async def test_a_busy_program_file_is_worth_another_try(host: LinuxProcessHost, tmp_path: Path) -> None:
    path = program(tmp_path, "#!/bin/sh\n")
    writing = os.open(path, os.O_WRONLY)
    with pytest.raises(SpawnError, match="Text file busy") as caught:
        await host.spawn(ProcessSpec("b", 1, (path,), {}), Recorder())
    os.close(writing)
    assert not caught.value.permanent


async def test_no_guardian_program(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "COMMAND", ("/nowhere/python",))
    with pytest.raises(SpawnError, match="the system refuses a new process: No such file") as caught:
        await host.spawn(sh("exit 0"), Recorder())
    assert not caught.value.permanent


async def test_a_guardian_that_fails_is_quoted(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('no good')"))
    with pytest.raises(SpawnError, match="its guardian process ended early: no good"):
        await host.spawn(sh("exit 0"), Recorder())
    monkeypatch.setattr(launch, "COMMAND", ("/bin/true",))
    with pytest.raises(SpawnError, match="ended early: it said nothing"):
        await host.spawn(sh("exit 0"), Recorder())


async def test_a_fork_that_is_refused(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"""
import os, runpy
def fork(): raise BlockingIOError(11, "")
os.fork = fork
runpy.run_path({launch.guardian.__file__!r}, run_name="__main__")
"""
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", program))
    with pytest.raises(SpawnError, match="refuses a new process: Resource temporarily unavailable; raise") as caught:
        await host.spawn(sh("exit 0"), Recorder())
    assert not caught.value.permanent


@pytest.mark.parametrize("later", [False, True])
async def test_a_start_cancelled_at_the_moment_it_fails(
    host: LinuxProcessHost, caplog: pytest.LogCaptureFixture, later: bool
) -> None:
    async with asyncio.TaskGroup() as group:
        spawning = group.create_task(host.spawn(ProcessSpec("b", 1, ("no-such",), {}), Recorder()))
        await until(lambda: bool(host._children))
        (child,) = host._children
        answer = child._answer_start

        def answer_and_cancel(error: SpawnError | None) -> None:
            answer(error)
            spawning.cancel()

        child._answer_start = answer_and_cancel  # type: ignore[method-assign]
        if later:  # its guardian is gone too by the time the caller hears of it
            child._loop.remove_reader(child._launched.control)
    assert spawning.cancelled()
    await until(lambda: not host._children)
    gc.collect()
    assert caplog.records == []  # such as: exception was never retrieved


async def test_a_start_that_takes_too_long_is_given_up(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", "import os; os.read(3, 9)"))
    monkeypatch.setattr(host_module, "START_S", 0.05)
    before = descriptors()
    with pytest.raises(SpawnError, match="overloaded") as caught:
        await host.spawn(sh("exit 0"), Recorder())
    assert not caught.value.permanent
    await until(lambda: descriptors() == before)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.04])
async def test_a_cancelled_start_leaves_nothing(host: LinuxProcessHost, tmp_path: Path, delay: float) -> None:
    told = tmp_path / "pid"
    events = Recorder()
    spec = sh(f"echo $$ > {told}.new; mv {told}.new {told}; exec sleep 1000")
    with suppress(TimeoutError):  # unless it was quicker than the limit
        async with asyncio.timeout(delay):
            await host.spawn(spec, events)
    for child in host._children:
        child.kill()
    await until(lambda: not host._children)
    assert not told.exists() or not alive(int(told.read_text()))


def test_a_daemon_without_standard_streams(tmp_path: Path) -> None:
    """It gets the very numbers that the guardian's descriptors are put on."""
    program = """
import os, sys
from supervisord.adapters.process import launch
from supervisord.ports import ProcessSpec
os.closerange(0, 20)
spec = ProcessSpec("b", 1, ("sh", "-c", "echo one; echo two >&2"), {})
started = launch.launch(spec, os.environ, {})
assert min(started.stdout, started.stderr, started.control.fileno()) < 5
started.control.setblocking(True)
told = [started.control.recv(100) for _ in range(3)]
words = [os.read(started.stdout, 100), os.read(started.stderr, 100)]
with open(sys.argv[1], "w") as file:
    print(words, b"exited" in told[1], b"gone" in told[2], file=file)
"""
    result = tmp_path / "result"
    subprocess.run([sys.executable, "-c", program, str(result)], timeout=20, check=True)
    assert result.read_text() == "[b'one\\n', b'two\\n'] True True\n"
