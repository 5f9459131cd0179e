"""A machine that has nothing left to start anything with: told as that, and not as a fault of the backend."""

import errno
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisord.adapters import detached
from supervisord.adapters.process import inspect, short_programs
from supervisord.adapters.process.shortage import is_shortage, remedy, told
from supervisord.core.errors import SpawnError

LIMIT = r"Too many open files; raise the limit of open files \(LimitNOFILE= in the unit\)"
PROCESSES = r"raise the limit of processes \(TasksMax= in the unit, or ulimit -u\)"


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Not one can be had: those below the limit are all taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    filler = [os.open("/dev/null", os.O_RDONLY)]
    while filler[-1] < highest:
        filler.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filler[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filler:
            os.close(descriptor)


async def test_a_model_that_cannot_be_opened_for_want_of_descriptors_is_no_wrong_model(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    for path in (model, tmp_path):
        with no_descriptors(), pytest.raises(SpawnError, match=LIMIT) as caught:
            await inspect.file_problem(str(path))
        assert (caught.value.permanent, caught.value.shortage) == (False, True)
        assert await inspect.file_problem(str(path)) is None


def test_a_port_that_cannot_be_tried_is_not_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with no_descriptors(), pytest.raises(SpawnError, match=LIMIT) as caught:
        inspect.port_problem("127.0.0.1", port)
    assert caught.value.shortage
    assert inspect.port_problem("127.0.0.1", port) is None


async def test_a_program_that_cannot_be_asked_is_not_one_without_flags() -> None:
    assert await short_programs.help_text(["/bin/ls"], 10.0), "and there is a thread from now on"
    with no_descriptors(), pytest.raises(SpawnError, match=LIMIT) as caught:
        await short_programs.help_text(["/bin/ls"], 10.0)
    assert caught.value.shortage
    assert await short_programs.help_text(["/no/such/program"], 10.0) == ""
    assert await short_programs.help_text(["with\0nul"], 10.0) == ""


async def test_without_threads_nothing_is_wrong_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # what the interpreter says at the limit of processes

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="Resource temporarily unavailable") as refused:
        detached.detached(lambda: 1, "test").result()
    assert refused.value.errno == errno.EAGAIN
    with pytest.raises(SpawnError, match=PROCESSES):
        await inspect.file_problem(str(tmp_path))


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone"), RuntimeError("closed"), TimeoutError()])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, told("it cannot be done"):
        raise error
    assert caught.value is error


def test_a_thread_that_cannot_be_had_is_a_shortage() -> None:
    words = f"it cannot be done: can't start new thread; {PROCESSES}"
    with pytest.raises(SpawnError, match=words) as caught, told("it cannot be done"):
        raise RuntimeError("can't start new thread")
    assert (caught.value.permanent, caught.value.shortage) == (False, True)


def test_what_helps() -> None:
    shortages = {number for number in errno.errorcode if is_shortage(number)}
    assert shortages == {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS}
    assert not is_shortage(None)
    assert all(remedy(number).startswith("; ") for number in shortages)
    assert remedy(errno.ENOENT) == ""
