"""The service under a real systemd: installed as scripts/install does it, started, killed, restarted, stopped.

Twice: in namespaces, where the kernel's control groups are those of this machine (with whatever controllers it has in
version 2), and under a kernel of its own, where memory and processes are limited by version 2 for certain.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machine.machine import PATIENCE_S, TOLD, UML, Machine

pytestmark = pytest.mark.e2e

CHECKOUT = Path(__file__).parents[2]
UNIT = "llm-supervisord"
GROUP = f"/sys/fs/cgroup/system.slice/{UNIT}.service"
UNIFIED = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
# What an administrator may change with `systemctl edit`, here so that the test need not wait for it.
QUICK = "RestartSec=100ms\nWatchdogSec=8\n"
PATIENT = "WatchdogSec=0\n"
STUB = """#!/bin/sh
case " $* " in *" --help "*) exit 0;; esac
export PYTHONPATH=/srv/checkout PYTHONDONTWRITEBYTECODE=1
"""
PYTHON = "/opt/llm-supervisord/venv/bin/python -m tests.fakes.backend"
LIMIT = 96 * 2**20
CONFIGURATION = f"""
listen: 127.0.0.1:8080
memory: {{host: {{reserve: 64MiB}}}}
backends:
  plain: {{runtime: llama.cpp, binary: /srv/plain, model: /srv/stub.gguf, autostart: true}}
  other: {{runtime: llama.cpp, binary: /srv/plain, model: /srv/stub.gguf, autostart: %s}}
  greedy:
    runtime: llama.cpp
    binary: /srv/greedy
    model: /srv/stub.gguf
    ladder: []
    limits: {{memory: {LIMIT}B, pids: 64}}
"""

Json = dict[str, Any]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/install puts on a machine with systemd 252."""
    root = tmp_path_factory.mktemp("stage")
    options = ("--root", root, "--python", sys.executable, "--borrow-packages", "--systemd", "252")
    done = subprocess.run(
        (CHECKOUT / "scripts/install", *options), text=True, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def machine(folder: Path, stage: Path, *, both: bool) -> Machine:
    # The greedy one's leader is a shell that waits: without memory.oom.group it would outlive what the kernel kills.
    files = {
        "srv/plain": f'{STUB}exec {PYTHON} "$@"\n',
        "srv/greedy": f'{STUB}{PYTHON} --ram 512MiB --load-seconds 1 "$@" &\nwait\n',
        "srv/stub.gguf": "GGUF",
        "etc/llm-supervisord/config.yaml": CONFIGURATION % json.dumps(both),
        f"etc/systemd/system/{UNIT}.service.d/quick.conf": f"{TOLD}{QUICK if both else PATIENT}",
    }
    return Machine(folder, stage, files)


class Service:
    """The service in a machine, as its administrator sees it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def show(self, name: str) -> str:
        return self.machine.run(f"systemctl show --value -p {name} {UNIT}").strip()

    def backends(self) -> dict[str, Json]:
        status, said = self.machine.ask("supctl status --json")
        return {one["name"]: one for one in json.loads(said)["backends"]} if status == 0 else {}

    def groups(self) -> dict[str, set[int]]:
        """The processes of each control group of the service, by its name below that; "" is the service's own."""
        told = self.machine.run(f"cd {GROUP} 2>/dev/null && grep -H '' $(find . -name cgroup.procs) /dev/null || true")
        empty = self.machine.run(f"cd {GROUP} 2>/dev/null && find . -type d || true")
        found: dict[str, set[int]] = {name.removeprefix(".").lstrip("/"): set() for name in empty.splitlines()}
        for line in told.splitlines():
            file, pid = line.split(":")
            found[file.removeprefix("./").removesuffix("cgroup.procs").rstrip("/")].add(int(pid))
        return found

    def leaf_of(self, backend: str) -> str:
        (leaf,) = (name for name in self.groups() if f"backend-{backend}-" in name)
        return leaf

    def until(self, what: str, reached: Any, within: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + within
        while not (found := reached()):
            assert time.monotonic() < deadline, f"waited {within} s for {what}\n{self.machine.console}"
            time.sleep(0.2)
        return found

    def until_ready(self, *names: str) -> dict[str, int]:
        """The leaders' pids of the backends, once all of them are ready."""

        def reached() -> dict[str, int]:
            seen = {name: one["pid"] for name, one in self.backends().items() if one["phase"] == "ready"}
            return seen if set(names) <= set(seen) else {}

        return dict(self.until(f"{names} to be ready", reached))

    def alive(self, pids: set[int]) -> set[int]:
        """Those that still run; a zombie does not."""
        told = self.machine.run("grep -H '^State' /proc/[0-9]*/status 2>/dev/null || true")
        running = {int(line.split("/")[2]) for line in told.splitlines() if "(zombie)" not in line}
        return pids & running

    def processes(self) -> set[int]:
        return set[int]().union(*self.groups().values())


@contextmanager
def own_group() -> Iterator[Path]:
    """An empty group of version 2, where this machine has it mounted."""
    root = next(path for path in UNIFIED if (path / "cgroup.procs").exists() and (path / "cgroup.controllers").exists())
    group = root / f"llm-supervisord-test-machine-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        deadline = time.monotonic() + 10
        for folder in (*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group):
            while True:
                try:
                    folder.rmdir()
                    break
                except OSError:
                    assert time.monotonic() < deadline, f"{folder} holds {(folder / 'cgroup.procs').read_text()!r}"
                    time.sleep(0.05)


def why_no_namespaces() -> str:
    """The privilege or the program that is missing; empty: none."""
    missing = [name for name in ("unshare", "ip", "systemd-sysusers") if shutil.which(name) is None]
    if missing or not Path("/usr/lib/systemd/systemd").exists():
        return f"needs {', '.join(missing) or 'systemd'}"
    if os.geteuid() != 0:
        return "needs root, for namespaces and control groups"
    unshare = ("unshare", "--fork", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net", "mount", "-t", "tmpfs")
    tried = subprocess.run((*unshare, "tmpfs", "/mnt"), text=True, capture_output=True, timeout=30, check=False)
    return "" if tried.returncode == 0 else f"needs CAP_SYS_ADMIN, for namespaces: {tried.stderr.strip()}"


def why_no_kernel() -> str:
    if shutil.which(UML) is None:
        return f"needs {UML}: apt-get install user-mode-linux"
    return "" if Path("/usr/lib/systemd/systemd").exists() else "needs systemd"


@pytest.mark.root
def test_a_real_systemd_starts_watches_and_clears_away_the_service(tmp_path: Path, stage: Path) -> None:
    if why := why_no_namespaces():
        pytest.skip(why)
    canary = tmp_path / "canary"
    canary.write_text("nothing in the machine may reach this")
    with own_group() as group:
        there = machine(tmp_path / "machine", stage, both=True)
        try:
            there.boot_in_namespaces(group)
            service = Service(there)
            _starts(service)
            _kills_whole_groups(service)
            _believes_systemd_oomd(service)
            _leaves_nothing_behind(service)
            _is_restarted_when_its_watchdog_starves(service)
            there.run(f"systemctl stop {UNIT}")
            assert service.show("Result") == "success"
            assert service.groups() == {}
        finally:
            there.switch_off()
    assert canary.exists()


def _starts(service: Service) -> None:
    service.machine.run(f"systemctl enable {UNIT}; systemctl restart {UNIT}")
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0"), "told by READY=1"
    leaders = service.until_ready("plain", "other")
    assert "plain ready" in service.show("StatusText")
    groups = service.groups()
    for name, pid in leaders.items():
        assert groups[service.leaf_of(name)] == {pid}
    main = int(service.show("MainPID"))
    of_daemon = next(name for name, pids in groups.items() if main in pids)
    assert of_daemon == ("daemon" if _controllers(service) else ""), "its own leaf, where leaves have controllers"
    comms = " ".join(f"/proc/{pid}/comm" for pid in groups[of_daemon])
    names = service.machine.run(f"cat {comms} 2>/dev/null || true").split()
    assert {"guard:plain", "guard:other"} <= set(names), names


def _controllers(service: Service) -> set[str]:
    return {"memory", "pids"} & set(service.machine.run(f"cat {GROUP}/cgroup.controllers").split())


def _kills_whole_groups(service: Service) -> None:
    """A process that no guardian knows, in the leaf of a backend, ends with it: that is cgroup.kill."""
    leaf = service.leaf_of("other")
    stranger = int(service.machine.run(f"sleep 600 >/dev/null 2>&1 & echo $!; echo $! >{GROUP}/{leaf}/cgroup.procs"))
    assert stranger in service.groups()[leaf]
    service.machine.run("supctl stop other")
    service.until("the leaf to go", lambda: leaf not in service.groups())
    assert service.alive({stranger}) == set()
    service.machine.run("supctl start other")
    service.until_ready("plain", "other")


def _believes_systemd_oomd(service: Service) -> None:
    """It kills as that does, with its mark: the real one wants a memory controller in version 2, and PSI."""
    leaf = f"{GROUP}/{service.leaf_of('other')}"
    mark = f"import os; os.setxattr('{leaf}', 'user.oomd_ooms', b'1')"
    before = service.backends()["other"]["generation"]
    service.machine.run(f'/srv/python/bin/python3 -c "{mark}" && echo 1 >{leaf}/cgroup.kill')
    service.until("another generation", lambda: service.backends()["other"]["generation"] > before)
    story = service.machine.run("supctl why other")
    assert "killed by systemd-oomd: host short of memory" in story.lower()
    service.until_ready("plain", "other")


def _leaves_nothing_behind(service: Service) -> None:
    """Whichever way the daemon goes, no process and no leaf of its life is there in the next."""
    ways = {
        "systemctl restart": (f"systemctl restart {UNIT}", 0),
        "a kill of all of it": (f"systemctl kill -s KILL {UNIT}", 1),
        "a kill of the daemon alone": (f"systemctl kill --kill-whom=main -s KILL {UNIT}", 2),
    }
    for way, (command, restarts) in ways.items():
        before, leaves = service.processes(), set(service.groups()) - {"", "daemon"}
        service.machine.run(command)
        _comes_back(service, way, before, restarts)
        after = set(service.groups())
        assert not {leaf for leaf in leaves & after if service.groups()[leaf] & before}, way
        assert len(after - {"", "daemon"}) == len(leaves), f"{way}: no leaf of the life before"


def _comes_back(service: Service, way: str, before: set[int], restarts: int) -> None:
    service.until(f"{way}: all to be gone", lambda: not service.alive(before))
    service.until_ready("plain", "other")
    assert service.show("NRestarts") == str(restarts), way


def _is_restarted_when_its_watchdog_starves(service: Service) -> None:
    assert service.show("WatchdogUSec") == "8s"
    before, main = service.processes(), service.show("MainPID")
    service.machine.run(f"kill -STOP {main}")
    service.until("systemd to miss the watchdog", lambda: "Watchdog timeout" in service.machine.console)
    _comes_back(service, "a missed watchdog", before, 3)
    said = service.machine.run(f"systemctl status --no-pager --lines=0 {UNIT}")
    assert "active (running)" in said
    assert "plain ready" in said


def test_what_a_real_systemd_delegates_holds_a_backend_to_its_memory(tmp_path: Path, stage: Path) -> None:
    """memory.max, pids.max, memory.oom.group, memory.events and memory.min, as the kernel keeps them in version 2."""
    if why := why_no_kernel():
        pytest.skip(why)
    there = machine(tmp_path / "machine", stage, both=False)
    try:
        there.boot_a_kernel()
        service = Service(there)
        there.run(f"systemctl start {UNIT}")
        leader = service.until_ready("plain")["plain"]
        groups, main = service.groups(), int(service.show("MainPID"))
        assert main in groups["daemon"], "it has moved itself"
        assert groups["backend-plain-1"] == {leader}
        assert groups[""] == set()
        limits = ("subtree_control", "daemon/memory.min", "backend-plain-1/memory.oom.group")
        told = there.run(f"cd {GROUP}; cat cgroup.{limits[0]} {limits[1]} {limits[2]}").splitlines()
        assert told == ["memory pids", str(64 * 2**20), "1"]

        there.ask("supctl start greedy")
        story = service.until("an incident", lambda: _story_of(there, "greedy"))
        assert "killed for lack of memory, by the kernel" in story
        assert "memory.events oom_kill rose by" in story
        assert "signal 9" in story, "the shell that leads it went with the one that was too large"
        assert int(service.show("MainPID")) == main, "OOMPolicy=continue"
        assert service.show("NRestarts") == "0"
        assert service.backends()["plain"]["pid"] == leader

        there.run(f"systemctl stop {UNIT}")
        assert service.show("Result") == "success"
        assert service.groups() == {}
    finally:
        there.switch_off()


def _story_of(there: Machine, backend: str) -> str:
    status, said = there.ask(f"supctl why {backend}")
    return said if status == 0 and "kernel" in said else ""
