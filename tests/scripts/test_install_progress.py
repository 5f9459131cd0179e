"""Installing with progress: real pip, a real folder of packages, and an index that is not there."""

import os
import pty
import subprocess
import sys
import zipfile
from pathlib import Path

_PROGRAM = Path(__file__).parents[2] / "scripts" / "install_progress.py"
_BOUND_S = 120.0


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**kept, "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0", **more}


def _wheel(folder: Path) -> None:
    folder.mkdir()
    info = "tiny_thing-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_thing.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def _arguments(tmp_path: Path) -> list[str]:
    return [sys.executable, str(_PROGRAM), str(tmp_path / "log"), "--target", str(tmp_path / "site"), "tiny-thing"]


def test_what_is_installed_is_told(tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels")
    environment = _environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    done = subprocess.run(
        _arguments(tmp_path), env=environment, capture_output=True, text=True, timeout=_BOUND_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "site" / "tiny_thing.py").exists()
    assert "  installing 1 package\n" in done.stdout
    assert "  installed in " in done.stdout
    assert "Successfully installed tiny-thing-1.0" in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_index_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    environment = _environment(PIP_INDEX_URL="http://127.0.0.1:9/simple")  # discard: nobody listens
    done = subprocess.run(
        _arguments(tmp_path), env=environment, capture_output=True, text=True, timeout=_BOUND_S, check=False
    )
    assert done.returncode == 1
    assert done.stdout.count("does not answer") == 1
    assert "No matching distribution found for tiny-thing" in done.stderr
    assert "The package index cannot be reached." in done.stderr
    assert f"All that pip said: {tmp_path / 'log'}" in done.stderr


def test_on_a_terminal_one_line_is_written_over(tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels")
    environment = _environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    leader, follower = pty.openpty()
    with subprocess.Popen(_arguments(tmp_path), env=environment, stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = _all_of(leader)
    os.close(leader)
    assert process.returncode == 0
    assert b"\r\x1b[K" in seen
    assert b"installed in" in seen


def _all_of(leader: int) -> bytes:
    seen = b""
    while True:
        try:
            seen += os.read(leader, 65536)
        except OSError:  # EIO: the last process has closed its end
            return seen
