"""The log files: rotation, a full disk, a file that somebody else moves."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisord.adapters.process import log_writer
from supervisord.adapters.process.log_writer import LogFile, LogWriter


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    writer = LogWriter(tmp_path, max_bytes=1000, keep=2)
    yield writer
    writer.close()
    assert "backend-logs" not in [thread.name for thread in threading.enumerate()]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def write(file: LogFile, text: str) -> None:
    """Append, and wait for the disk."""
    before = file.written
    assert file.append(text.encode())
    wait_for(lambda: file.written == before + len(text))


def test_one_file_for_each_backend(writer: LogWriter, tmp_path: Path) -> None:
    assert writer.file("a") is writer.file("a")
    writer.file("a").append(b"one\n")
    writer.file("../b").append(b"two\n")
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".._b.log", "a.log"]
    assert content(tmp_path / "a.log") == "one\n"
    assert (tmp_path / "a.log").stat().st_mode & 0o007 == 0


def test_rotation_keeps_the_newest(writer: LogWriter, tmp_path: Path) -> None:
    file = writer.file("a")
    for number in range(5):
        write(file, str(number) * 599 + "\n")
    assert [content(tmp_path / name)[:1] for name in ("a.log", "a.log.1", "a.log.2")] == ["4", "3", "2"]
    assert not (tmp_path / "a.log.3").exists()


def test_without_old_ones_the_file_starts_anew(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, max_bytes=1000, keep=0)
    for text in ("a" * 900, "b" * 900):
        write(writer.file("a"), text)
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]
    assert content(tmp_path / "a.log") == "b" * 900


def test_an_existing_file_is_continued_and_counts(writer: LogWriter, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("o" * 900)
    write(writer.file("a"), "n" * 200)
    assert content(tmp_path / "a.log.1") == "o" * 900
    assert content(tmp_path / "a.log") == "n" * 200


def test_a_file_that_was_moved_away_is_made_again(writer: LogWriter, tmp_path: Path) -> None:
    file = writer.file("a")
    write(file, "first\n")
    (tmp_path / "a.log").rename(tmp_path / "elsewhere")
    write(file, "second\n")
    (tmp_path / "a.log").unlink()
    write(file, "third\n")
    assert content(tmp_path / "elsewhere") == "first\n"
    assert content(tmp_path / "a.log") == "third\n"
    (tmp_path / "other").touch()
    (tmp_path / "other").replace(tmp_path / "a.log")
    write(file, "fourth\n")
    assert content(tmp_path / "a.log") == "fourth\n"


def test_a_full_disk_degrades_and_heals(writer: LogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "RETRY_S", 0.05)
    (tmp_path / "a.log").symlink_to("/dev/full")
    file = writer.file("a")
    assert file.append(b"kept\n")
    wait_for(lambda: bool(file.problem))
    assert file.problem.startswith(f"cannot write {tmp_path}/a.log: No space left on device; free the disk")
    assert file.append(b"too\n")
    (tmp_path / "a.log").unlink()
    wait_for(lambda: not file.problem)
    assert content(tmp_path / "a.log") == "kept\ntoo\n"


def test_a_full_disk_does_not_keep_the_writer_from_closing(writer: LogWriter, tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to("/dev/full")
    assert writer.file("a").append(b"lost\n")
    wait_for(lambda: bool(writer.file("a").problem))


def test_what_waits_for_the_disk_is_bounded(writer: LogWriter, tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to("/dev/full")
    file = writer.file("a")
    accepted = sum(file.append(b"x" * 65536) for _ in range(100))
    assert accepted == log_writer.MAX_BUFFERED // 65536
    assert writer.file("healthy").append(b"others are not affected\n")
    wait_for(lambda: bool(content(tmp_path / "healthy.log")))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
def test_a_really_full_file_system_takes_what_fits(
    writer: LogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "RETRY_S", 0.05)
    disk = tmp_path / "disk"
    disk.mkdir()
    assert os.system(f"mount -t tmpfs -o size=64k tmpfs {disk}") == 0
    small = LogWriter(disk, max_bytes=1 << 20, keep=1)
    try:
        file = small.file("a")
        lines = b"".join(b"%07d\n" % number for number in range(16384))
        assert file.append(lines)
        wait_for(lambda: bool(file.problem))
        assert os.system(f"mount -o remount,size=1m {disk}") == 0
        wait_for(lambda: not file.problem)
        assert (disk / "a.log").read_bytes() == lines
    finally:
        small.close()
        assert os.system(f"umount {disk}") == 0
