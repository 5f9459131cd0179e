"""The kernel's counter and log of out-of-memory kills: a stand-in log, and the kernel itself where it may be asked."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisord.adapters.kernel_log import KernelLog

FIRST_PIDS = "pid:[4026531836]"


class Kmsg:
    """A pipe in the place of /dev/kmsg: it gives what was written, and EAGAIN after it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def say(self, text: str, *, facility: int = 0, at: float = 0.000002) -> None:
        os.write(self._writer, f"{facility << 3 | 3},1,{at * 1e6:.0f},-;{text}\n SUBSYSTEM=test\n".encode())

    def close(self) -> None:
        os.close(self._writer)


@pytest.fixture
def kmsg(tmp_path: Path) -> Iterator[Kmsg]:
    kmsg = Kmsg(tmp_path / "kmsg")
    yield kmsg
    kmsg.close()


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to(FIRST_PIDS)
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 7\noom_kill 3\nx_oom_kill 9\n")
    return tmp_path / "proc"


@pytest.fixture
def log(proc: Path, kmsg: Kmsg) -> Iterator[KernelLog]:
    log = KernelLog(proc, kmsg.path)
    log.mark()
    yield log
    log.close()


@pytest.mark.parametrize(
    "line",
    [
        "Out of memory: Killed process 71 (llama-server) total-vm:9kB, anon-rss:8kB, UID:0 pgtables:0kB",
        "Memory cgroup out of memory: Killed process 71 (VLLM::EngineCor) total-vm:9kB",
        "Out of memory: Kill process 71 (python) score 921 or sacrifice child",
        "oom_reaper: reaped process 71 (odd) (name), now anon-rss:0kB",
    ],
)
def test_the_kernel_names_its_victims(log: KernelLog, kmsg: Kmsg, line: str) -> None:
    assert log.named(frozenset({71})) is False
    kmsg.say(line)
    assert log.named(frozenset({70, 71})) is True
    assert log.named(frozenset({7, 1, 711})) is False


def test_a_victim_is_remembered_when_somebody_else_asked_first(log: KernelLog, kmsg: Kmsg) -> None:
    for pid in (5, 6):
        kmsg.say(f"Out of memory: Killed process {pid} (x)")
    assert log.named(frozenset({1})) is False
    assert log.named(frozenset({5})) is True
    assert log.named(frozenset({6})) is True


def test_what_a_program_writes_into_the_log_proves_nothing(log: KernelLog, kmsg: Kmsg) -> None:
    kmsg.say("Out of memory: Killed process 71 (x)", facility=1)
    kmsg.say("user wrote: Killed process 71 (x)")
    assert log.named(frozenset({71})) is False


def test_only_what_came_later_counts(tmp_path: Path, proc: Path) -> None:
    (tmp_path / "past").write_text("3,1,2,-;Out of memory: Killed process 71 (x)\n")
    log = KernelLog(proc, tmp_path / "past")
    log.mark()
    assert log.named(frozenset({71})) is False
    with (tmp_path / "past").open("a") as more:
        more.write("3,2,3,-;Out of memory: Killed process 72 (x)\n")
    assert log.named(frozenset({72})) is True
    log.mark()
    assert log.named(frozenset({72})) is False
    log.close()


def test_records_lost_to_a_full_buffer_are_passed_over(
    log: KernelLog, kmsg: Kmsg, monkeypatch: pytest.MonkeyPatch
) -> None:
    kmsg.say("Out of memory: Killed process 71 (x)")
    read, answers = os.read, [BrokenPipeError()]  # what the real device answers then; nothing here can fill its buffer

    def lossy(file: int, size: int) -> bytes:
        if answers:
            raise answers.pop()
        return read(file, size)

    monkeypatch.setattr(os, "read", lossy)
    assert log.named(frozenset({71})) is True


def test_a_log_that_ended_names_nobody(proc: Path) -> None:
    log = KernelLog(proc, Path(os.devnull))
    log.mark()
    assert log.named(frozenset({71})) is False
    log.close()


def test_a_flood_is_read_in_bounded_parts(proc: Path) -> None:
    log = KernelLog(proc, Path("/dev/zero"))
    log.mark()
    assert log.named(frozenset({71})) is False
    log.close()


@pytest.mark.parametrize("cause", ["no log", "other pids", "no proc", "never marked", "closed"])
def test_without_a_readable_log_nothing_is_claimed(proc: Path, kmsg: Kmsg, cause: str) -> None:
    if cause == "other pids":
        (proc / "self/ns/pid").unlink()
        (proc / "self/ns/pid").symlink_to("pid:[4026532000]")
    log = KernelLog(
        proc / "nowhere" if cause == "no proc" else proc,
        proc / "nowhere" if cause == "no log" else kmsg.path,
    )
    if cause != "never marked":
        log.mark()
    if cause == "closed":
        log.close()
    kmsg.say("Out of memory: Killed process 71 (x)")
    assert log.named(frozenset({71})) is None
    if cause in {"no log", "never marked", "closed"}:
        assert log.victims(0.0) is None
        assert log.gpu_errors(0.0) is None
    log.close()


def test_the_counter(proc: Path) -> None:
    log = KernelLog(proc)
    assert log.oom_kills() == 3
    (proc / "vmstat").write_text("nr_free_pages 7\n")
    assert log.oom_kills() is None
    (proc / "vmstat").unlink()
    assert log.oom_kills() is None


def test_victims_are_told_by_name_from_a_moment_on(log: KernelLog, kmsg: Kmsg) -> None:
    assert log.victims(0.0) == ()
    kmsg.say("Out of memory: Killed process 70 (old) total-vm:9kB", at=100.0)
    kmsg.say("Memory cgroup out of memory: Killed process 71 (VLLM::EngineCor) total-vm:9kB", at=200.0)
    kmsg.say("oom_reaper: reaped process 72 (odd) (name), now anon-rss:0kB", at=201.0)
    assert log.victims(200.9) == ("VLLM::EngineCor", "odd) (name")
    assert log.victims(201.1) == ("odd) (name",)
    assert log.victims(300.0) == ()


def test_with_other_pids_the_names_are_known_all_the_same(proc: Path, kmsg: Kmsg) -> None:
    (proc / "self/ns/pid").unlink()
    (proc / "self/ns/pid").symlink_to("pid:[4026532000]")
    log = KernelLog(proc, kmsg.path)
    log.mark()
    kmsg.say("Out of memory: Killed process 71 (llama-server) total-vm:9kB", at=5.0)
    assert log.named(frozenset({71})) is None
    assert log.victims(5.0) == ("llama-server",)
    log.close()


@pytest.mark.parametrize(
    ("line", "is_error"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=7, name=x, GPU has fallen off the bus.", True),
        ("NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=x, Ch 0000000a, MMU Fault", True),
        ("NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.", True),
        ("amdgpu 0000:c2:00.0: ring gfx_0.0.0 timeout, signaled seq=1, emitted seq=2", True),
        ("amdgpu 0000:c4:00.0: amdgpu: GPU reset begin!. Source:  3", True),
        ("i915 0000:00:02.0: [drm] GPU HANG: ecode 9:1:85dfffff", True),
        ("xe 0000:03:00.0: [drm] GT0: reset started", True),
        ("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.158.01", False),
        ("usb 1-1: reset high-speed USB device number 2", False),
    ],
)
def test_what_the_kernel_says_of_failing_gpus(log: KernelLog, kmsg: Kmsg, line: str, is_error: bool) -> None:
    kmsg.say(line, at=50.0)
    assert log.gpu_errors(50.0) == ((line,) if is_error else ())
    assert log.gpu_errors(52.0) == ()
    assert log.victims(0.0) == ()


def test_what_it_says_of_gpus_is_bounded(log: KernelLog, kmsg: Kmsg) -> None:
    for channel in range(100):
        kmsg.say(f"NVRM: Xid (PCI:0000:01:00): 45, pid=7, name=x, Ch {channel}")
    told = log.gpu_errors(0.0)
    assert told is not None
    assert len(told) == 64
    assert told[-1].endswith("Ch 99")


def test_a_program_cannot_fail_a_gpu(log: KernelLog, kmsg: Kmsg) -> None:
    kmsg.say("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", facility=1)
    assert log.gpu_errors(0.0) == ()


def test_marking_again_forgets(log: KernelLog, kmsg: Kmsg) -> None:
    kmsg.say("Out of memory: Killed process 71 (x)")
    kmsg.say("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.")
    assert log.victims(0.0) == ("x",)
    log.mark()
    assert log.victims(0.0) == ()
    assert log.gpu_errors(0.0) == ()


# --- the kernel itself ---

V1 = Path("/sys/fs/cgroup/memory")
HOG = "import sys; open(sys.argv[1], 'w').write('0'); kept = bytearray(256 << 20); kept[:] = b'x' * len(kept)"


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 32 MiB without swap."""
    if os.geteuid() != 0 or not (V1 / "memory.limit_in_bytes").exists():
        pytest.skip("needs root and the memory controller of cgroup v1")
    group = V1 / f"kernel-log-test-{os.getpid()}"
    group.mkdir()
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        if (group / name).exists():
            (group / name).write_text(str(32 << 20))
    yield group
    group.rmdir()


@pytest.mark.root
def test_a_real_kill_is_counted_and_named(small_cgroup: Path) -> None:
    log = KernelLog()
    log.mark()
    if log.named(frozenset()) is None:
        pytest.skip("the kernel log cannot be read here")
    before = log.oom_kills()
    victim = subprocess.Popen([sys.executable, "-c", HOG, small_cgroup / "cgroup.procs"])
    assert victim.wait(timeout=30) == -9
    after = log.oom_kills()
    assert before is not None
    assert after is not None
    assert after > before
    assert log.named(frozenset({victim.pid})) is True
    assert log.named(frozenset({os.getpid()})) is False
    assert any(name.startswith("python") for name in log.victims(time.monotonic() - 30) or ())
    assert log.gpu_errors(time.monotonic()) is not None
    log.close()
