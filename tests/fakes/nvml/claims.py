"""Memory of the stand-in GPUs that processes hold: nvml.c reads these files, the stub backends write them."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


class Claims:
    """A folder of claims, and the file of the driver they add to.

    Every claim is made under one lock and looks at what is free first, as cudaMalloc does, so that memory can never be
    given twice; what was taken is written down at each, so that `peak` is exact and misses nothing between two looks.
    """

    def __init__(self, folder: Path, driver: Path) -> None:
        self.folder = folder
        self._driver = driver

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Claims | None":
        """Those that the processes of a test share; None where GPUs are not played."""
        folder = environment.get("FAKE_NVML_CLAIMS")
        return cls(Path(folder), Path(environment["FAKE_NVML"])) if folder else None

    def claim(self, gpu: int, size: int, pid: int | None = None) -> bool:
        """Hold `size` bytes of a GPU from now on, instead of what was held before. False: so much is not free."""
        pid = os.getpid() if pid is None else pid
        with self._alone():
            others = self.taken(gpu, but=pid)
            if size > int(self._values().get(f"{gpu}.free", 0)) - others:
                self._note("refused", gpu, pid, size)
                return False
            unfinished = self.folder / f".{pid}"
            unfinished.write_text(f"{gpu}:{size}\n")
            unfinished.replace(self.folder / str(pid))
            self._note("taken", gpu, pid, others + size)
        return True

    def taken(self, gpu: int, *, but: int = 0) -> int:
        """Bytes claimed of a GPU, those of dead processes that linger included."""
        return sum(size for pid, of, size in self._all() if of == gpu and pid != but)

    def peak(self, gpu: int) -> int:
        """The most bytes that were ever claimed of a GPU at the same time."""
        return max((size for what, of, _, size in self._notes() if what == "taken" and of == gpu), default=0)

    def refused(self) -> list[int]:
        """The sizes of claims that found too little free."""
        return [size for what, _, _, size in self._notes() if what == "refused"]

    def index(self, device: str) -> int:
        """The GPU that CUDA_VISIBLE_DEVICES names, by index or by UUID."""
        if device.isdigit():
            return int(device)
        values = self._values()
        return next(int(key.partition(".")[0]) for key in values if key.endswith(".uuid") and values[key] == device)

    def _all(self) -> Iterator[tuple[int, int, int]]:
        """Pid, GPU, bytes."""
        for file in self.folder.iterdir():
            if not file.name.isdigit() or not (lives(int(file.name)) or self._lingers(int(file.name))):
                continue
            for line in file.read_text().split():
                gpu, _, size = line.partition(":")
                yield int(file.name), int(gpu), int(size)

    def _lingers(self, pid: int) -> bool:
        died = self.folder / f"{pid}.died"
        with suppress(FileExistsError):
            died.touch(exist_ok=False)
        now = time.clock_gettime(time.CLOCK_REALTIME)  # the clock of a file's times
        return now - died.stat().st_mtime < float(self._values().get("linger", 0))

    def _values(self) -> dict[str, str]:
        lines = self._driver.read_text(errors="surrogateescape").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def _note(self, what: str, gpu: int, pid: int, size: int) -> None:
        with (self.folder / ".notes").open("a") as notes:
            notes.write(f"{what} {gpu} {pid} {size}\n")

    def _notes(self) -> Iterator[tuple[str, int, int, int]]:
        file = self.folder / ".notes"
        for line in file.read_text().splitlines() if file.exists() else ():
            what, gpu, pid, size = line.split()
            yield what, int(gpu), int(pid), int(size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def lives(pid: int) -> bool:
    """Whether a process still holds memory; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
