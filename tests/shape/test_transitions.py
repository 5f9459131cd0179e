"""ARCHITECTURE.md shows the transitions that the code makes."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import transitions

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "transitions.py"


def test_the_table_in_the_architecture_is_what_the_code_does() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check", str(ROOT / "ARCHITECTURE.md")],
        capture_output=True,
        text=True,
        timeout=300,  # some 15 s of a processor, which others may use too
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_check_fails_when_a_line_differs_and_write_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{transitions.BEGIN}\nold\n{transitions.END}\n\nAfter\n")

    assert transitions.main(["--check", str(page)]) == 1
    assert "--write" in capsys.readouterr().err
    assert transitions.main(["--write", str(page)]) == 0
    assert transitions.main(["--check", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Before\n\n")
    assert text.endswith("\n\nAfter\n")
    assert "| loading | Answered | **ready** |" in text


@pytest.mark.parametrize(
    "text",
    ["", transitions.BEGIN, f"{transitions.END} {transitions.BEGIN}", f"{transitions.BEGIN}{transitions.END}" * 2],
)
def test_a_page_without_its_markers_is_left_alone(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)

    assert transitions.main(["--write", str(page)]) == 2
    assert page.read_text() == text
    assert "transitions:begin" in capsys.readouterr().err


def test_without_a_file_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert transitions.main([]) == 0
    assert "| stopped | StartAsked |" in capsys.readouterr().out
