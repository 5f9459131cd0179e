"""The gates on coverage, with the real coverage tool on small packages."""

import subprocess
import sys
from pathlib import Path

import pytest

_GATE = Path(__file__).parents[2] / "scripts" / "coverage_gate.py"
_WHOLE = "def f(x):\n    if x:\n        return 1\n    return 2\n\nf(0)\nf(1)\n"
_HALF = "def f(x):\n    if x:\n        return 1\n    return 2\n\nf(0)\n"


def _gate(folder: Path, modules: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    for name, text in modules.items():
        path = folder / "supervisord" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    imports = "".join(
        f"exec(compile(open({str(p)!r}).read(), {str(p)!r}, 'exec'), {{}})\n" for p in folder.rglob("*.py")
    )
    (folder / "all").write_text(imports, encoding="ascii")
    # A data file of its own, and a bare environment: these tests may be measured themselves.
    measured = _python(folder, "-m", "coverage", "run", "--branch", "--include=supervisord/*", "all")
    assert measured.returncode == 0, measured.stderr
    return _python(folder, str(_GATE))


def _python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_full_coverage_passes(tmp_path: Path) -> None:
    done = _gate(tmp_path, {"core/a.py": _WHOLE, "api/b.py": _WHOLE})
    assert (done.returncode, done.stderr) == (0, "")
    assert "core         100.00 %" in done.stdout
    assert done.stdout.splitlines()[-1].split()[:3] == ["all", "100.00", "%"]


@pytest.mark.parametrize(
    ("modules", "failed"),
    [
        ({"core/a.py": _HALF}, "core, all"),
        ({"core/a.py": _HALF, "api/b.py": _WHOLE * 20}, "core"),
        ({"core/a.py": _WHOLE, "api/b.py": _HALF}, "all"),
        ({"api/b.py": _WHOLE}, "core"),  # not measured is not covered
    ],
)
def test_a_gap_fails_and_is_shown(tmp_path: Path, modules: dict[str, str], failed: str) -> None:
    done = _gate(tmp_path, modules)
    assert done.returncode == 1
    assert done.stderr == f"coverage gate: {failed} below the gate\n"
    for name, text in modules.items():
        assert (f"supervisord/{name}: 3, 2->3" in done.stdout) == (text == _HALF)
