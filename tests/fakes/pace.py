"""A process held to a crawl, so that what a test wants to see happens slowly enough to be seen on any machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

RUNS_S = 0.005
RESTS_S = 0.05


@contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """`process` runs about a tenth of the time: stopped and continued by signals. It may be killed meanwhile."""
    over = threading.Event()

    def pace() -> None:
        try:
            while not over.is_set():
                process.suspend()
                over.wait(RESTS_S)
                process.resume()
                over.wait(RUNS_S)
        except psutil.NoSuchProcess:
            return

    pacing = threading.Thread(target=pace, name="pace")
    pacing.start()
    try:
        yield
    finally:
        over.set()
        pacing.join()
