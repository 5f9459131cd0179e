"""`--check` and `--schema`: what is printed where, and the exit status."""

import json
from pathlib import Path

import pytest

from supervisord.cli.check import check, print_schema


def test_a_sound_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("backends: {a: {model: not/there.gguf}, b: {model: embedded}}")
    assert check(str(file)) == 0
    assert capsys.readouterr() == (f"{file}: ok, 2 backends\n", "")
    file.write_text("backends: {a: {model: embedded}}")
    assert check(str(file)) == 0
    assert capsys.readouterr().out == f"{file}: ok, 1 backend\n"


def test_a_file_with_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("lisen: x\n")
    assert check(str(file)) == 78
    assert capsys.readouterr() == (
        "",
        (
            f"llm-supervisord: 1 problem in {file}, nothing was changed\n"
            '  lisen   unknown setting; did you mean "listen"?   line 1\n'
        ),
    )


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    assert check(str(file)) == 78
    assert capsys.readouterr().err == (
        f"llm-supervisord: cannot read configuration {file}: No such file or directory; create it, or name another\n"
    )


def test_the_schema_for_editors(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_schema() == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["listen"]["default"] == "127.0.0.1:8411"
    backends = next(choice for choice in schema["properties"]["backends"]["anyOf"] if choice.get("type") == "object")
    assert backends["additionalProperties"] is False
    reserve = schema["$defs"]["Vram"]["properties"]["reserve"]
    assert reserve["default"] == "2GiB"
    assert reserve["description"].endswith("Size from 0B to 1TiB.")
    assert {"type": "null"} in reserve["anyOf"]
