"""A machine that boots a real systemd beside this one: in namespaces, or under a kernel of its own (User Mode Linux).

Its root is a tmpfs with this machine's /usr in it, read-only: nothing that runs in it can change anything here. Under a
kernel of its own every controller of cgroup version 2 is there, whatever the kernel of this machine does with its own.
"""

import os
import pty
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
HERE = Path(__file__).parent
UML = "linux.uml"  # Debian: user-mode-linux
MEMORY = "1024M"  # of the machine with a kernel of its own
PATIENCE_S = 90.0  # 3 s and less where nobody else computes
_MOST_SAID = 8192  # bytes of a log, in a message
_NAMESPACES = ("--fork", "--kill-child", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net")
_TARGETS = ("sysinit", "basic", "shutdown", "umount", "network", "multi-user")
# Of a unit whose output is to be part of `console`: there is no journal.
TOLD = "[Service]\nStandardOutput=append:/srv/exchange/service.log\n"
_BARE = "[Unit]\nDescription=nothing of the distribution's\nDefaultDependencies=no\n"
_AGENT = f"{_BARE}[Service]\nExecStart=/srv/checkout/tests/fakes/machine/agent\nKillMode=process\n"


class Machine:
    """`stage`: what scripts/install staged below a folder. `files`: more of them, by their path from the root."""

    def __init__(self, folder: Path, stage: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self._asked = 0
        self._console: list[bytes] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: int | None = None
        for name in ("exchange", "units", "uml"):
            (folder / name).mkdir(parents=True)
        shutil.copytree(stage, folder / "stage", symlinks=True)
        self._settle_in(files)

    def _settle_in(self, files: Mapping[str, str]) -> None:
        """What is to be at another place in the machine than here."""
        stage = self.folder / "stage"
        venv = stage / "opt/llm-supervisord/venv"
        (python,) = (link for link in (venv / "bin").iterdir() if link.is_symlink() and link.readlink().is_absolute())
        python.unlink()
        python.symlink_to(f"/srv/python/bin/{_python().name}")
        (venv / "pyvenv.cfg").write_text("home = /srv/python/bin\ninclude-system-site-packages = false\n")
        next(venv.rglob("borrowed.pth")).write_text("/srv/packages\n")
        more = {
            "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
            "etc/group": "root:x:0:\n",
            "etc/machine-id": f"{1:032x}\n",  # without one systemd enables what the distribution presets
            "etc/systemd/system.conf": "[Manager]\nDefaultEnvironment=LD_LIBRARY_PATH=/srv/python/lib\n",
        }
        for name, text in (more | dict(files)).items():
            file = stage / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755 if text.startswith("#!") else 0o644)
        units = {f"{name}.target": _BARE for name in _TARGETS} | {"agent.service": _AGENT}
        units["default.target"] = f"{_BARE}Wants=agent.service\n"
        for name, text in units.items():
            (self.folder / "units" / name).write_text(text)

    # --- life --------------------------------------------------------------------------------------------------------

    def boot_in_namespaces(self, group: Path) -> None:
        """`group`: an empty cgroup of version 2, which becomes the root of the machine's. Needs root."""
        ours, theirs = pty.openpty()
        (self.folder / "console").write_text(os.ttyname(theirs))
        move = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
        command = ("sh", "-c", move, str(group), "unshare", *_NAMESPACES, "--", str(HERE / "boot"))
        self._run(command, ours, env={**os.environ, **self._told()})
        self._terminal = theirs  # held open: a terminal that nobody holds is gone

    def boot_a_kernel(self) -> None:
        """Needs user-mode-linux, and no privilege."""
        settings = {
            "mem": MEMORY, "uml_dir": str(self.folder / "uml"), "rootfstype": "hostfs", "root": "/dev/root",
            "init": str(HERE / "boot"), "con": "null", "con0": "null,fd:1", **self._told(), "UML": "1",
        }  # fmt: skip
        ours, theirs = os.pipe()
        self._run((UML, "ro", "quiet", *(f"{name}={value}" for name, value in settings.items())), ours, stdout=theirs)
        os.close(theirs)

    def _told(self) -> dict[str, str]:
        packages = sysconfig.get_paths()["purelib"]
        told = {"MACHINE": self.folder, "PYTHON": _python().parents[1], "PACKAGES": packages, "CHECKOUT": CHECKOUT}
        return {name: str(value) for name, value in told.items()}

    def _run(
        self, command: tuple[str, ...], console: int, *, stdout: int | None = None, env: dict[str, str] | None = None
    ) -> None:
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=null, stdout=stdout, stderr=subprocess.STDOUT if stdout else None, env=env,
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(console,), daemon=True).start()

    def _listen(self, console: int) -> None:
        with suppress(OSError):  # EIO: the last of those who hold the terminal is gone
            while said := os.read(console, 4096):
                self._console.append(said)
        os.close(console)

    @property
    def console(self) -> str:
        """What its systemd has said, and what units that are `TOLD` have."""
        log = self.folder / "exchange/service.log"
        service = log.read_bytes()[-_MOST_SAID:] if log.exists() else b""
        return b"".join((*self._console, service)).decode(errors="replace")

    def switch_off(self) -> None:
        """At once; returns when nothing of it runs any more."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its process 1 goes with `unshare`, and all else with that
        self._process.wait(PATIENCE_S)
        if self._terminal is not None:
            os.close(self._terminal)

    # --- asking ------------------------------------------------------------------------------------------------------

    def run(self, command: str, *, within: float = PATIENCE_S) -> str:
        """What a shell in the machine says to `command`, which has to succeed."""
        status, said = self.ask(command, within=within)
        assert status == 0, f"{command}: status {status}\n{said}\n{self.console}"
        return said

    def ask(self, command: str, *, within: float = PATIENCE_S) -> tuple[int, str]:
        """Status and output of a shell in the machine."""
        exchange, number = self.folder / "exchange", self._asked
        self._asked += 1
        (exchange / "new").write_text(f"{command}\n")
        (exchange / "new").rename(exchange / f"{number}.ask")
        answer = exchange / f"{number}.status"
        deadline = time.monotonic() + within
        while not answer.exists():
            assert self._process is not None
            ended = self._process.poll()
            assert ended is None, f"the machine ended with status {ended}:\n{self.console}"
            assert time.monotonic() < deadline, f"no answer to {command!r} within {within} s:\n{self.console}"
            time.sleep(0.02)
        return int(answer.read_text()), (exchange / f"{number}.said").read_text(errors="replace")


def _python() -> Path:
    """The interpreter itself: a virtual environment only points at it."""
    return Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
