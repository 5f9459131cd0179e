"""The daemon of a soak, its backends, and all that faults are made with."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.fakes.daemon import Daemon, Json, quick, stubbed, vllm_stubbed
from tests.fakes.nvml.driver import FakeDriver, build
from tests.fakes.remote import KEY, MODEL, Remote
from tests.fakes.small_disk import SmallDisk, small_disk
from tests.fakes.stub import ROOT, stub_argv
from tests.soak.plan import REAL, Plan

GIB = 2**30
CARD = 24 * GIB
MARK = "LLM_SUPERVISORD_SOAK"
SLOTS: Mapping[str, int] = {"llama-a": 3, "llama-b": 2, "vllm": 4, "command": 2, "cloud": 6, REAL: 2}
VRAM: Mapping[str, int] = {"llama-a": 8, "llama-b": 8, "vllm": 12}  # GiB: not all of them at once

PACE = ("--tokens", "24", "--token-rate", "60")
LIFE: Mapping[str, object] = {
    "probe_interval": "300ms",
    "timeouts": {"probe": "1s", "probe_hang": "4s", "progress": "5s", "load_stall": "6s", "drain": "2s", "term": "1s"},
    "restart": {"max_failures": 8, "within": "20s", "backoff": {"base": "100ms", "cap": "1s"}, "rearm_after": "5s"},
}


@dataclass(slots=True)
class House:
    """Everything that acts on the daemon, or looks at it, does so through this."""

    plan: Plan
    folder: Path
    daemon: Daemon
    driver: FakeDriver | None
    remote: Remote
    logs: SmallDisk | None
    environment: Mapping[str, str]
    up: bool = False  # no doors while the daemon is being killed and started
    kills: list[float] = field(default_factory=list)  # when the daemon was killed, monotonic
    strangers: int = 0  # processes of nobody's on the card just now
    stranger_left: float = 0.0  # monotonic
    done: dict[str, int] = field(default_factory=dict)  # faults and verbs, by name

    @property
    def processes(self) -> list[str]:
        """The backends that have a process."""
        return [name for name in self.plan.backends if name != "cloud"]

    @property
    def stubs(self) -> list[str]:
        """The backends whose faults can be chosen."""
        return [name for name in self.processes if name != REAL]

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def arm(self, name: str, flags: str) -> None:
        """The faults that the next start of a stub shows; none with an empty text."""
        faults_of(self.folder, name).write_text(flags)

    def peaks(self, name: str) -> list[int]:
        """How many requests a stub had at once, whenever that was more than before."""
        report = self.folder / f"{name}.peaks"
        return [int(line) for line in report.read_text().split()] if report.exists() else []

    def marked(self) -> list[psutil.Process]:
        """Whatever lives and was started by this soak's daemons, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def faults_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.faults"


@contextmanager
def built(plan: Plan, folder: Path, remote: Remote) -> Iterator[House]:
    """A house that is not up yet."""
    with ExitStack() as stack:
        driver = _driver(folder)
        # A disk of logs that is really full needs a small one, and that needs root.
        logs = stack.enter_context(small_disk(folder / "logs", "16m")) if os.geteuid() == 0 else None
        (folder / "logs").mkdir(exist_ok=True)
        daemon = Daemon(folder, _configuration(plan, folder, remote, vram=driver is not None))
        environment = {"CLOUD_KEY": KEY, MARK: str(folder), **(driver.env if driver else {})}
        yield House(plan, folder, daemon, driver, remote, logs, environment)


def _driver(folder: Path) -> FakeDriver | None:
    """A card; None without a compiler to make the stand-in driver with."""
    if shutil.which("gcc") is None:
        return None
    driver = FakeDriver(build(folder / "fake-nvml"), folder)
    driver.card(0, CARD)
    driver.linger(0.4)
    return driver


def _configuration(plan: Plan, folder: Path, remote: Remote, *, vram: bool) -> Json:
    backends = {name: _backend(name, folder, remote, vram=vram) for name in plan.backends}
    mixed = [name for name in ("llama-a", "llama-b") if name in backends] or list(backends)[:1]
    resort = {"last_resort": ["cloud"]} if "cloud" in backends and "cloud" not in mixed else {}
    return {
        "backends": backends,
        "models": {"mixed": {"backends": mixed, **resort}},
        "queue": {"limit": 60, "timeout": "30s"},
        "limits": {"client_stall": "3s"},
        "log": {"dir": str(folder / "logs"), "max_size": "1MiB", "keep": 1},
        "memory": {"vram": {"reserve": "1GiB", "leave_after": "1s"}, "placement": {"linger": "300ms"}},
    }


def _backend(name: str, folder: Path, remote: Remote, *, vram: bool) -> Json:
    if name == "cloud":
        return {"runtime": "remote", "url": remote.url, "key": "${env:CLOUD_KEY}", "upstream_model": MODEL,
                "slots": SLOTS[name], "probe_interval": "500ms"}  # fmt: skip
    settings: dict[str, Any] = {**LIFE, "slots": SLOTS[name], "env": {MARK: str(folder)}, "autostart": False}
    if name == REAL:
        return {"model": "embedded", "context": 2048, **settings, "timeouts": {"load_stall": "60s"}}
    faults_of(folder, name).write_text("")
    flags = (*PACE, "--max-concurrent-report", str(folder / f"{name}.peaks"))
    if vram and name in VRAM:
        flags = (*flags, "--vram", f"{VRAM[name]}GiB")
        settings["memory"] = {"vram": f"{VRAM[name]}GiB"}
    if name == "command":
        return {"runtime": "command", "command": ["/bin/sh", str(_chooser(folder, name, [*stub_argv(*flags)])),
                "--host", "${host}", "--port", "${port}", "-np", "${slots}"], **quick(settings)}  # fmt: skip
    made = vllm_stubbed(folder, "--fork-engine", *flags, **settings) if name == "vllm" else stubbed(
        folder, "--fork-worker", *flags, **settings
    )  # fmt: skip
    made["binary"] = str(_chooser(folder, name, [made["binary"]]))
    return made


def _chooser(folder: Path, name: str, command: list[str]) -> Path:
    """A program that is the stub with the faults which are armed when it starts."""
    program = folder / f"run-{name}"
    words = " ".join(f"'{word}'" for word in command)
    program.write_text(
        f"#!/bin/sh\nSTUB_FAULTS=$(cat '{faults_of(folder, name)}')\nPYTHONPATH='{ROOT}'\n"
        f'export STUB_FAULTS PYTHONPATH\nexec {words} "$@"\n'
    )
    program.chmod(0o755)
    return program
