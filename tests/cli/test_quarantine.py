"""`llm-supervisord --quarantine`."""

import subprocess
import sys
from pathlib import Path

from supervisord.adapters.store import STORE_FILE


def quarantine(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "config.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    command = [sys.executable, "-m", "supervisord", "--config", config, "--quarantine"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_damaged_store_is_moved_and_what_to_do_is_said(tmp_path: Path) -> None:
    store = tmp_path / "state" / STORE_FILE
    store.parent.mkdir()
    store.write_bytes(b"\xa5" * 10_000)
    ended = quarantine(tmp_path)
    assert ended.returncode == 0, ended.stderr
    (folder,) = store.parent.glob(f"{STORE_FILE}.damaged-*")
    assert (folder / STORE_FILE).read_bytes() == b"\xa5" * 10_000
    assert f"moved the damaged store to {folder}" in ended.stdout
    assert ".recover" in ended.stdout
    assert not store.exists()


def test_where_there_is_none_nothing_is_done(tmp_path: Path) -> None:
    ended = quarantine(tmp_path)
    assert (ended.returncode, ended.stdout) == (73, "")
    assert "there is no store at" in ended.stderr
