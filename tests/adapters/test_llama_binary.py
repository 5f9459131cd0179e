"""Which llama-server is run."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from supervisord.adapters.llama_binary import NO_LLAMA_SERVER, embedded_llama_server, find_llama_server


def test_the_one_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_llama_server() == (str(program),)


def test_the_embedded_engine_stands_in_whatever_the_folder(tmp_path: Path) -> None:
    (tmp_path / "supervisord").mkdir()
    (tmp_path / "supervisord" / "__init__.py").write_text("raise SystemExit('not this one')\n", encoding="ascii")
    command = find_llama_server(lambda _: None)
    assert command is not None
    assert command == embedded_llama_server()
    done = subprocess.run(
        [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("version: ")


def test_neither_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_llama_server(lambda _: None) is None
    assert "pip install 'llm-supervisord[embedded]'" in NO_LLAMA_SERVER
