# ruff: noqa: INP001, T201, S603 - a program of the repository: it prints, and runs pip
"""Run `pip install` and show how it goes: what is being fetched, its size, rate and time left; never silent for 5 s.

usage: install_progress.py LOG REQUIREMENT...      everything pip says goes to the file LOG
"""

import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_DOWNLOADING = re.compile(r"^\s*Downloading (\S+) \(([\d.]+) ([kMG]?B)\)")
_COLLECTING = re.compile(r"^Collecting (\S+)")
_INSTALLING = re.compile(r"^Installing collected packages: (.*)")
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Network is unreachable|Connection refused|ConnectTimeout"
    r"|from versions: none"
)
_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_LIVE_EVERY_S = 0.5  # on a terminal one line is written over
_LINE_EVERY_S = 4.0  # elsewhere each report is a line
_WORTH_A_LINE = 5e6  # bytes: smaller files are there before anybody has read their name


@dataclass(slots=True)
class Step:
    """What pip does at the moment. Sizes in bytes; `since` in monotonic seconds."""

    words: str
    since: float
    size: float = 0.0
    file_name: str = ""


class Progress:
    """Follows pip's lines. `folder` is where pip keeps what it is fetching."""

    def __init__(self, folder: Path, out: IO[str]) -> None:
        self._folder = folder
        self._out = out
        self._live = out.isatty()
        self._started = self._reported = time.monotonic()
        self._step = Step("asking for the list of packages", self._started)
        self._packages = 0
        self._retrying = False

    @property
    def every_s(self) -> float:
        return _LIVE_EVERY_S if self._live else _LINE_EVERY_S

    def take(self, line: str) -> None:
        now = time.monotonic()
        if found := _DOWNLOADING.match(line):
            name = found[1].rsplit("/", 1)[-1]
            self._step = Step(name, now, float(found[2]) * _UNITS[found[3]], name)
            if self._step.size >= _WORTH_A_LINE:
                self._line(f"  fetching {name} ({found[2]} {found[3]})")
        elif found := _COLLECTING.match(line):
            self._packages += 1
            self._step = Step(f"looking at {found[1]}, {self._packages} packages so far", now)
        elif found := _INSTALLING.match(line):
            count = found[1].count(",") + 1
            self._step = Step(f"installing {count} package{'' if count == 1 else 's'}", now)
            self._line(f"  {self._step.words}")
        elif "Retrying" in line and not self._retrying:
            self._retrying = True
            self._line("  the package index does not answer; trying again")
        if now - self._reported >= self.every_s:
            self.report()

    def report(self) -> None:
        """Say how the current step goes."""
        now = time.monotonic()
        self._reported = now
        text = f"  {self._step.words}, {now - self._started:.0f} s"
        got = self._fetched()
        if got:
            rate = got / max(now - self._step.since, 0.001)
            left = max(self._step.size - got, 0.0) / rate
            text = f"  {self._step.words}: {got / 1e6:.1f} of {self._step.size / 1e6:.1f} MB"
            text += f", {rate / 1e6:.1f} MB/s, {left:.0f} s left"
        if self._live:
            width = os.get_terminal_size(self._out.fileno()).columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=self._out, flush=True)
        else:
            print(text, file=self._out, flush=True)

    def _fetched(self) -> int:
        if not self._step.file_name:
            return 0
        sizes = [path.stat().st_size for path in self._folder.glob(f"pip-unpack-*/{self._step.file_name}")]
        return max(sizes, default=0)

    def _line(self, text: str) -> None:
        self._reported = time.monotonic()
        self.clear()
        print(text, file=self._out, flush=True)

    def clear(self) -> None:
        """Leave no half-written line behind."""
        if self._live:
            print("\r\033[K", end="", file=self._out, flush=True)


def main() -> int:
    log_path, *requirements = sys.argv[1:]
    started = time.monotonic()
    print("installing the program, the llama.cpp engine and a small model (about 350 MB the first time)", flush=True)
    with tempfile.TemporaryDirectory(prefix="llm-supervisord-install-") as folder:
        status = _install(requirements, Path(log_path), Path(folder))
    if status == 0:
        print(f"  installed in {time.monotonic() - started:.0f} s", flush=True)
    else:
        _explain(Path(log_path).read_text(encoding="utf-8", errors="replace"), log_path)
    return status


def _install(requirements: list[str], log_path: Path, folder: Path) -> int:
    command = [
        sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
        "--progress-bar", "off", "--retries", "2", *requirements,
    ]  # fmt: skip
    progress = Progress(folder, sys.stdout)
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        ) as pip,
    ):  # fmt: skip
        lines = _lines_of(pip)
        while True:
            try:
                line = lines.get(timeout=progress.every_s)
            except queue.Empty:
                progress.report()
                continue
            if line is None:
                break
            log.write(line)
            progress.take(line)
    progress.clear()
    return pip.returncode


def _lines_of(pip: "subprocess.Popen[str]") -> "queue.Queue[str | None]":
    lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)

    def read() -> None:
        for line in pip.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _explain(output: str, log_path: str) -> None:
    lines = [line.strip() for line in output.splitlines()]
    errors = list(dict.fromkeys(line for line in lines if line.startswith("ERROR:"))) or lines[-15:]
    print(*errors, sep="\n", file=sys.stderr)
    if _UNREACHABLE.search(output):
        print(
            "The package index cannot be reached. Connect this machine to the network, or name a mirror "
            "(PIP_INDEX_URL=URL) or a folder of wheels (PIP_FIND_LINKS=DIR PIP_NO_INDEX=1), and run this again.",
            file=sys.stderr,
        )
    elif "No space left on device" in output:
        print("The disk is full: about 1 GB is needed here. Make room, and run this again.", file=sys.stderr)
    print(f"All that pip said: {log_path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
