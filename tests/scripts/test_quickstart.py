"""scripts/quickstart in the environment of the tests: a real daemon, a real model, a real answer."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

_SCRIPTS = Path(__file__).parents[2] / "scripts"
_BOUND_S = 120.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the extra `embedded` is not installed"),
]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """No deeper than a home is: the path of the control socket has a limit."""
    with tempfile.TemporaryDirectory(prefix="home of a person ") as folder:
        yield Path(folder)


@pytest.fixture
def environment(home: Path) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return {**kept, "HOME": str(home)}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, str(_SCRIPTS / "quickstart_run.py"), *arguments]


@contextmanager
def _serving(environment: Mapping[str, str]) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """A quickstart without --once, and all it has said once it serves."""
    process = subprocess.Popen(_command(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if line.startswith("Configuration:"):
                break
        yield process, said
    finally:
        process.terminate()
        process.wait(_BOUND_S)
        process.stdout.close()


def _left(home: Path) -> list[psutil.Process]:
    return [
        process for process in psutil.process_iter(["cmdline"]) if str(home) in " ".join(process.info["cmdline"] or ())
    ]


def test_once_answers_shows_the_record_and_leaves_nothing(home: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        _command("--once"), env=environment, capture_output=True, text=True, timeout=_BOUND_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SHA-256 verified" in done.stderr
    assert "asking: What is the capital of France?\nParis\n" in done.stdout
    job = re.search(r"^\$ supctl jobs show (\S+)\njob (\S+)  done$", done.stdout, re.MULTILINE)
    assert job is not None
    assert job[1] == job[2]
    assert re.search(r"^\$ supctl status\nllm-supervisord ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\nstopping the daemon\nstopped\n")
    assert _left(home) == []


def test_it_serves_until_ctrl_c_on_another_port_when_its_own_is_taken(
    home: Path, environment: Mapping[str, str]
) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8411))
            holder.listen()
        except OSError:
            pass  # somebody else has it: all the better
        with _serving(environment) as (process, said):
            port = re.search(r"^port 8411 is taken; taking (\d+)$", said, re.MULTILINE)
            assert port is not None
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/readyz", timeout=30) as answer:
                assert json.load(answer)["ready"] is True
            second = subprocess.run(
                _command("--once"), env=environment, capture_output=True, text=True, timeout=_BOUND_S, check=False
            )
            assert second.returncode == 1
            assert second.stderr.startswith("quickstart: another quickstart is running in ")
            process.send_signal(signal.SIGINT)
            assert process.wait(_BOUND_S) == 0
    assert _left(home) == []


def test_the_daemon_does_not_outlive_a_killed_quickstart(home: Path, environment: Mapping[str, str]) -> None:
    with _serving(environment) as (process, _):
        running = _left(home)
        assert [process.name() for process in running] == ["llm-supervisord"]
        process.kill()
        process.wait(_BOUND_S)
        _, alive = psutil.wait_procs(running, timeout=_BOUND_S)
        assert alive == []


def test_the_shell_part_explains_itself() -> None:
    for script, status in (("quickstart", 0), ("test", 0), ("check", 0)):
        done = subprocess.run(
            [str(_SCRIPTS / script), "--help"], capture_output=True, text=True, timeout=_BOUND_S, check=False
        )
        assert done.returncode == status
        assert "usage: scripts/" in done.stdout + done.stderr
    refused = subprocess.run(
        [str(_SCRIPTS / "quickstart"), "--sometimes"], capture_output=True, text=True, timeout=_BOUND_S, check=False
    )
    assert refused.returncode == 1


def _path_with(folder: Path, *programs: str) -> str:
    for program in programs:
        found = shutil.which(program)
        assert found is not None
        (folder / program).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        (None, "no Python 3.11 or later on PATH; install one: apt-get install python3"),
        ("sys.version_info", "no Python 3.11 or later on PATH"),  # too old
        ("ensurepip", "not its part that makes environments; install it: apt-get install python3."),
    ],
)
def test_a_python_that_will_not_do_is_told_with_what_to_install(tmp_path: Path, python: str | None, words: str) -> None:
    clone = tmp_path / "a clone"
    shutil.copytree(_SCRIPTS, clone / "scripts")
    programs = tmp_path / "bin"
    programs.mkdir()
    path = _path_with(programs, "bash", "dirname", "flock", "sha256sum", "cat")
    if python is not None:
        fake = programs / "python3"
        fake.write_text(f'#!{path}/bash\n[[ $* != *{python}* || $* == *%d* ]] && exec {sys.executable} "$@"\nexit 1\n')
        fake.chmod(0o755)
    done = subprocess.run(
        [str(clone / "scripts" / "quickstart"), "--once"], env={"PATH": path, "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=_BOUND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert not (clone / ".venv").exists()
