"""Setting the wall clock of a program under test, and of nobody else."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shift.c")
DAY_S = 86_400


class Wall:
    """The wall clock of processes started with `env`."""

    def __init__(self, folder: Path) -> None:
        library = folder / "shift.so"
        flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl")
        subprocess.run(["gcc", *flags], check=True, timeout=60)
        self._file = folder / "clock-shift"
        self.set(0)
        self.env = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._file)}

    def set(self, seconds: int) -> None:
        """From now on it goes wrong by so many seconds."""
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(str(seconds))
        unfinished.replace(self._file)
