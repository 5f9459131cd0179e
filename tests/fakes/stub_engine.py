"""vLLM's other processes: the API server (the stub itself) has an engine, and that has a worker with all the memory.

As seen of vLLM: an API server that is killed leaves both alive; the death of either of them ends the other one, and a
little later the API server. Forked before there is an event loop, so that a start costs no second interpreter.
"""

import ctypes
import os
import signal
import sys
import time
from typing import NoReturn

from tests.fakes.stub_memory import STEPS, Memory
from tests.fakes.stub_options import Serving

GREED = 2**30  # bytes that SIGUSR1 makes the worker take
FAILED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.68 GiB"


class Engine:
    """What the leader knows of them. `loaded` becomes readable with a byte once the worker has its memory, and at the
    end of both without one."""

    def __init__(self, serving: Serving) -> None:
        self.loaded, loaded = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.loaded)
            _engine(serving, loaded)
        os.close(loaded)
        self.pidfd = os.pidfd_open(self.pid)


def _engine(serving: Serving, loaded: int) -> NoReturn:
    _name("VLLM::EngineCore")
    alive, engine_lives = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(engine_lives)
        _worker(serving, loaded, alive)
    os.close(alive)
    os.close(loaded)
    signal.signal(signal.SIGTERM, lambda *_: _leave(worker))
    _, status = os.waitpid(worker, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
        _say(FAILED)
    else:
        _say("ERROR Worker proc VllmWorker-0 died unexpectedly, shutting down executor.")
        _say("EngineCore encountered a fatal error.")
    os._exit(1)


def _leave(worker: int) -> NoReturn:
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    os._exit(0)


def _worker(serving: Serving, loaded: int, alive: int) -> NoReturn:
    _name("VLLM::Worker_TP0")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its engine tells it when to go
    memory = Memory(serving)
    signal.signal(signal.SIGUSR1, lambda *_: memory.eat(GREED))
    for enough in memory.steps():
        if not enough:
            _say(OOM)
            os._exit(1)
        time.sleep(serving.load_seconds / STEPS)
    os.write(loaded, b"1")
    while os.read(alive, 1):
        pass
    os._exit(0)  # the engine is gone


def _name(name: str) -> None:
    """As vLLM names its processes; the kernel cuts at 15 characters."""
    ctypes.CDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a log of a server
