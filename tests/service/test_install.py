"""The install and uninstall scripts, run for real into a folder of their own."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
INSTALL, UNINSTALL = CHECKOUT / "scripts/install", CHECKOUT / "scripts/uninstall"
PREFIX = "opt/llm-supervisord"
UNIT = "etc/systemd/system/llm-supervisord.service"
DROP_IN = f"{UNIT}.d/systemd-254.conf"
CONFIG = "etc/llm-supervisord/config.yaml"
FROM_HERE = ("--python", sys.executable, "--borrow-packages")  # 4 s instead of a minute of downloads


class Stage:
    """A staging root, and programs in front of PATH that must not be called."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        traps = folder / "traps"
        traps.mkdir()
        self.path: tuple[Path | str, ...] = (traps, os.environ["PATH"])
        self.called = folder / "called"
        for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles", "sysctl"):
            (traps / name).write_text(f"#!/bin/sh\necho {name} >>{self.called}\n")
            (traps / name).chmod(0o755)

    def run(self, script: Path, *options: str | Path, status: int = 0) -> str:
        env = {**os.environ, "PATH": ":".join(map(str, self.path))}
        command = (script, "--root", self.root, *options)
        out, err = subprocess.PIPE, subprocess.STDOUT
        limits = {"timeout": 300, "umask": 0o077}  # a careful administrator's; the service must still read its program
        done = subprocess.run(command, env=env, text=True, stdout=out, stderr=err, check=False, **limits)
        assert done.returncode == status, done.stdout
        return done.stdout

    def install(self, *options: str | Path, systemd: int = 252) -> str:
        return self.run(INSTALL, *FROM_HERE, "--systemd", str(systemd), *options)

    def files(self, *, program: bool = False) -> set[str]:
        """Every file and link, without the inside of the virtual environment unless `program`."""
        found = {
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_symlink() or path.is_file()
        }
        return found if program else {path for path in found if not path.startswith(f"{PREFIX}/venv/")}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    assert not stage.called.exists(), f"called on the live system: {stage.called.read_text()}"


@pytest.fixture(scope="module")
def checkout_before() -> set[Path]:
    return sources()


def sources() -> set[Path]:
    return {path for path in CHECKOUT.iterdir() if path.name in {"build", "dist"} or path.suffix == ".egg-info"}


def test_install_upgrade_and_uninstall(stage: Stage, checkout_before: set[Path]) -> None:
    said = stage.install()
    assert stage.files() == {
        f"{PREFIX}/installed-files",
        f"{PREFIX}/bin/llm-supervisord",
        f"{PREFIX}/bin/llm-supervisord-llama-server",
        f"{PREFIX}/bin/supctl",
        "usr/local/bin/llm-supervisord",
        "usr/local/bin/supctl",
        UNIT,
        "usr/local/lib/sysusers.d/llm-supervisord.conf",
        "usr/local/lib/tmpfiles.d/llm-supervisord.conf",
        "etc/sysctl.d/60-llm-supervisord.conf",
        "usr/local/share/doc/llm-supervisord/service.md",
        CONFIG,
    }
    assert sources() == checkout_before, "the build left something in the checkout"
    assert f"/{CONFIG}" in said
    assert "systemctl enable --now llm-supervisord" in said
    assert "next: edit" in said
    for name in ("llm-supervisord", "supctl"):
        assert (stage.root / "usr/local/bin" / name).readlink() == Path("/", PREFIX, "bin", name)
        shebang = (stage.root / PREFIX / "venv/bin" / name).read_text().splitlines()[0]
        assert shebang == f"#!/{PREFIX}/venv/bin/python"
    asked = "import supervisord, sys; print(supervisord.__file__, sys.prefix)"
    python = stage.root / PREFIX / "venv/bin/python"
    done = subprocess.run((python, "-I", "-c", asked), text=True, capture_output=True, check=True, timeout=30)
    assert done.stdout.count(str(stage.root)) == 2
    daemon = "import sys; from supervisord.cli.daemon import main; sys.exit(main())"
    check = (python, "-I", "-c", daemon, "--check", stage.root / CONFIG)
    checked = subprocess.run(check, text=True, capture_output=True, check=False, timeout=30)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    folders = [path for path in (stage.root / "opt").rglob("*") if path.is_dir()]
    assert [path for path in folders if path.stat().st_mode & 0o005 != 0o005] == []

    (stage.root / CONFIG).write_text("listen: 127.0.0.1:9999\n")
    before = stage.files(program=True)
    said = stage.install(systemd=254)
    assert stage.files(program=True) == before | {DROP_IN}
    assert (stage.root / CONFIG).read_text() == "listen: 127.0.0.1:9999\n"
    assert re.findall(r"wrote (\S+)", said) == [f"/{DROP_IN}"]

    said = stage.install()  # a downgrade of systemd: its options go again
    assert stage.files(program=True) == before
    assert f"removed /{DROP_IN}" in said

    (stage.root / PREFIX / "mine").write_text("kept")
    (stage.root / "var/lib/llm-supervisord").mkdir(parents=True)
    (stage.root / "var/lib/llm-supervisord/jobs").write_text("kept")
    said = stage.run(UNINSTALL)
    assert stage.files() == {f"{PREFIX}/mine", CONFIG, "var/lib/llm-supervisord/jobs"}
    assert "--purge" in said

    assert "nothing is installed" in stage.run(UNINSTALL, "--purge")
    assert stage.files() == {f"{PREFIX}/mine"}


def test_another_prefix_is_written_into_the_unit(stage: Stage) -> None:
    stage.install("--prefix", "/srv/llm")
    assert "\nExecStart=/srv/llm/bin/llm-supervisord --config" in (stage.root / UNIT).read_text()
    assert (stage.root / "usr/local/bin/supctl").readlink() == Path("/srv/llm/bin/supctl")
    stage.run(UNINSTALL, "--prefix", "/srv/llm")
    assert stage.files() == {CONFIG}


def test_a_build_that_fails_leaves_the_running_program_alone(stage: Stage, tmp_path: Path) -> None:
    program = stage.root / PREFIX / "venv/bin/llm-supervisord"
    program.parent.mkdir(parents=True)
    program.write_text("running")
    broken = tmp_path / "llm_supervisord-9-py3-none-any.whl"
    broken.write_text("no wheel")
    said = stage.run(INSTALL, *FROM_HERE, "--systemd", "252", "--wheel", broken, status=1)
    assert "invalid" in said
    assert program.read_text() == "running"
    assert not (stage.root / UNIT).exists()


def test_a_foreign_program_of_the_same_name_is_not_replaced(stage: Stage) -> None:
    foreign = stage.root / "usr/local/bin/supctl"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    said = stage.run(INSTALL, *FROM_HERE, "--systemd", "252", status=1)
    assert "/usr/local/bin/supctl exists" in said
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--frobnicate"], "unknown option"),
        (["--prefix"], "needs a value"),
        (["--prefix", "/"], "absolute path below /"),
        (["--prefix", "opt"], "absolute path below /"),
        (["--prefix", "/opt/a b"], "spaces"),
        (["--wheel", "/nonexistent.whl"], "no such wheel"),
        (["--borrow-packages"], "needs --python"),
    ],
)
def test_wrong_usage_changes_nothing(stage: Stage, options: list[str], problem: str) -> None:
    assert problem in stage.run(INSTALL, *options, status=2)
    assert not stage.root.exists() or stage.files() == set()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--systemd", "249"], "systemd 252 or later is needed"),
        (["--systemd", "new"], "cannot tell the version"),
        (["--python", "/bin/false"], "no Python 3.11 or later"),
    ],
)
def test_a_machine_that_cannot_run_it_is_told(stage: Stage, options: list[str], problem: str) -> None:
    assert problem in stage.run(INSTALL, "--systemd", "252", *options, status=1)
    assert "usr/local/bin/supctl" not in stage.files()


def test_a_python_in_a_home_folder_is_passed_over(stage: Stage, tmp_path: Path) -> None:
    pyenv = tmp_path / "pyenv"  # says that it is in a home folder, whatever it is asked
    pyenv.mkdir()
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        (pyenv / name).write_text("#!/bin/sh\nexit 0\n")
        (pyenv / name).chmod(0o755)
    stage.path = (pyenv, *stage.path)
    (tmp_path / "empty.whl").write_text("")
    said = stage.run(INSTALL, "--systemd", "252", "--wheel", tmp_path / "empty.whl", status=1)
    assert str(pyenv) not in said


@pytest.mark.parametrize("script", [INSTALL, UNINSTALL])
def test_help_names_every_option(stage: Stage, script: Path) -> None:
    said = stage.run(script, "--help")
    options = set(re.findall(r"^\s+(?:[-\w| ]*\| )?(--[a-z-]+)(?: \| -h)?\)", script.read_text(), re.MULTILINE))
    options |= set(re.findall(r"(--[a-z]+) \|", script.read_text()))
    assert options
    assert all(option in said for option in options)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize("script", [INSTALL, UNINSTALL])
def test_the_scripts_are_clean(script: Path) -> None:
    subprocess.run(("shellcheck", script), check=True, timeout=60)
