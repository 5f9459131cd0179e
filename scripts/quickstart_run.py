# ruff: noqa: INP001, T201, S603 - a program of the repository: it prints, and runs the daemon
"""The part of scripts/quickstart that runs in the environment: start, wait, ask, show, serve."""

import ctypes
import fcntl
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ask_once import AskError, ask

from supervisord.cli.embedded_model import EmbeddedModelError, ensure_model

HOST = "127.0.0.1"
PORT = 8411  # the daemon's own default
BACKEND = "small"
QUESTION = "What is the capital of France?"
PROGRAMS = Path(sys.executable).parent

_READY_S = 180.0  # the model loads in 2 s on two cores; a busy machine gets two orders of magnitude
_SUPCTL_S = 30.0
_STOP_S = 20.0  # the drain of the configuration below is 5 s, and a backend gets 10 s to end
_REPORT_EVERY_S = 2.0
_ON_THE_WAY = frozenset({"starting", "loading"})
_PR_SET_PDEATHSIG = 1

CONFIGURATION = """\
# Written by scripts/quickstart, at every start. Copy it to begin your own; etc/llm-supervisord.yaml has every setting.
listen: {host}:{port}
state_dir: {state}
control:
  socket: {socket}
backends:
  {backend}:
    model: embedded        # the bundled one; yours would be the path of a GGUF file
    context: 2k
shutdown:
  drain: 5s
"""


class QuickstartError(Exception):
    """It cannot go on; the message says why and what to do."""


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked
    """Ctrl-C or SIGTERM."""


@dataclass(frozen=True, slots=True)
class Places:
    folder: Path
    port: int

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def socket(self) -> Path:
        return self.folder / "control.sock"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def say(text: str = "") -> None:
    print(text, flush=True)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        ensure_model()
        with _own_folder() as folder:
            _run(_prepare(folder), once="--once" in sys.argv[1:])
    except Stopped:
        pass
    except (QuickstartError, AskError, EmbeddedModelError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return 0


def _run(places: Places, *, once: bool) -> None:
    with _daemon(places) as daemon:
        _await_ready(places, daemon)
        say(f"\nasking: {QUESTION}")
        job = ask(HOST, places.port, BACKEND, QUESTION, lambda text: print(text, end="", flush=True))
        say()
        _supctl(places, "jobs", "show", job)
        _supctl(places, "status")
        if not once:
            _invite(places)
            daemon.wait()
            _check_alive(places, daemon)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise Stopped


# --- before ----------------------------------------------------------------------------------------------------------


@contextmanager
def _own_folder() -> Iterator[Path]:
    """The folder of the quickstart, for one at a time: the kernel lets the lock go with the process."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    folder = base / "llm-supervisord" / "quickstart"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QuickstartError(f"another quickstart is running in {folder}; use that one, or end it first") from None
        yield folder


def _prepare(folder: Path) -> Places:
    places = Places(folder, _free_port())
    quoted = {"state": json.dumps(str(folder / "state")), "socket": json.dumps(str(places.socket))}
    text = CONFIGURATION.format(host=HOST, port=places.port, backend=BACKEND, **quoted)
    places.config.write_text(text, encoding="utf-8")
    return places


def _free_port() -> int:
    for port in (PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found: int = probe.getsockname()[1]
            if port != PORT:
                say(f"port {PORT} is taken; taking {found}")
            return found
    raise QuickstartError(f"no free port on {HOST}")


# --- the daemon ------------------------------------------------------------------------------------------------------


@contextmanager
def _daemon(places: Places) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, which ends with this program, whatever becomes of it."""
    command = [str(PROGRAMS / "llm-supervisord"), "--config", str(places.config)]
    say(f"starting: {shlex.join(command)}")
    libc = ctypes.CDLL(None)
    with places.log.open("wb") as log:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=places.folder,
            start_new_session=True,  # Ctrl-C comes to this program alone, which then stops the daemon in order
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - no threads here
        )  # fmt: skip
    try:
        yield daemon
    finally:
        _end(daemon)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the wait below is bounded; a second Ctrl-C must not leave it running
    if daemon.poll() is not None:
        return
    say("\nstopping the daemon")
    daemon.terminate()
    try:
        daemon.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        daemon.kill()  # its guardians end the backends
        daemon.wait()
        raise QuickstartError(f"the daemon did not stop within {_STOP_S:.0f} s, and was killed") from None
    say("stopped")


def _check_alive(places: Places, daemon: subprocess.Popen[bytes]) -> None:
    status = daemon.poll()
    if status is not None:
        tail = places.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise QuickstartError("\n".join([f"the daemon ended with status {status}; its last lines:", *tail]))


def _await_ready(places: Places, daemon: subprocess.Popen[bytes]) -> None:
    started = reported = time.monotonic()
    shown = ""
    while True:
        _check_alive(places, daemon)
        ready, phase = _readiness(places)
        now = time.monotonic()
        if ready:
            say(f"  {BACKEND}: ready after {now - started:.1f} s")
            return
        if phase.startswith("parked"):
            raise QuickstartError(f"{BACKEND} cannot be started. {phase}; see {places.log}")
        if phase != shown or now - reported >= _REPORT_EVERY_S:
            shown, reported = phase, now
            say(f"  {BACKEND}: {phase}, {now - started:.1f} s")
        if now - started >= _READY_S:
            raise QuickstartError(f"{BACKEND} is not ready after {_READY_S:.0f} s ({phase}); see {places.log}")
        time.sleep(0.1)


def _readiness(places: Places) -> tuple[bool, str]:
    connection = http.client.HTTPConnection(HOST, places.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        backend = answer["backends"][BACKEND]
        phase, reason = backend["phase"], backend["reason"]
        return answer["ready"], phase if phase in _ON_THE_WAY or not reason else f"{phase}: {reason}"
    except (OSError, http.client.HTTPException, ValueError):
        return False, "the daemon is starting"
    finally:
        connection.close()


# --- after -----------------------------------------------------------------------------------------------------------


def _supctl_command(places: Places) -> list[str]:
    return [str(PROGRAMS / "supctl"), "--socket", str(places.socket)]


def _supctl(places: Places, *words: str) -> None:
    say(f"\n$ supctl {shlex.join(words)}")
    subprocess.run([*_supctl_command(places), *words], check=False, timeout=_SUPCTL_S)


def _invite(places: Places) -> None:
    body = json.dumps({"model": BACKEND, "messages": [{"role": "user", "content": QUESTION}]})
    say(f"""
Serving on {places.url}/v1 until Ctrl-C. Ask it from another terminal:

  curl {places.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'

  from openai import OpenAI
  client = OpenAI(base_url="{places.url}/v1", api_key="none")
  answer = client.chat.completions.create(model="{BACKEND}", messages=[{{"role": "user", "content": "{QUESTION}"}}])

  {shlex.join(_supctl_command(places))} status

Configuration: {places.config}    Log: {places.log}""")


if __name__ == "__main__":
    sys.exit(main())
