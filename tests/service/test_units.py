"""The service files, as systemd's own tools read them. Nothing is booted or created."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisord.adapters.notify import SystemdNotifier
from supervisord.adapters.process import cgroup_v2
from supervisord.config import places
from supervisord.core.memory import MIB

CHECKOUT = Path(__file__).parents[2]
UNIT = CHECKOUT / "systemd/llm-supervisord.service"
DROP_IN = CHECKOUT / "systemd/llm-supervisord.service.d/systemd-254.conf"
USERS = CHECKOUT / "systemd/llm-supervisord.sysusers.conf"
FILES = CHECKOUT / "systemd/llm-supervisord.tmpfiles.conf"
SYSCTL = CHECKOUT / "etc/sysctl.d/60-llm-supervisord.conf"
EXPOSURE = 25  # tenths; 2.4 is reached. The rest is what a GPU service has to see: devices, processes, the network

LEFT_OUT = {
    "PrivateDevices",
    "MemoryDenyWriteExecute",
    "ProtectControlGroups",
    "ProcSubset",
    "ProtectProc",
    "PrivateUsers",
    "ProtectKernelLogs",
    "IPAddressDeny",
}


def has(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def run(*command: str | Path) -> str:
    """All that a command that must succeed says."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"([A-Z]\w*)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def systemd_version() -> int:
    return int(run("systemd-analyze", "--version").split()[1])


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here."""
    copy = tmp_path / UNIT.name
    copy.write_text(with_a_program(UNIT.read_text()))
    return copy


def with_a_program(text: str) -> str:
    return re.sub(r"(?m)^(Exec\w+)=/opt/\S+", r"\1=/bin/true", text)


@has("systemd-analyze")
def test_systemd_reads_the_unit_in_silence(unit: Path) -> None:
    assert run("systemd-analyze", "verify", unit) == ""


@has("systemd-analyze")
def test_the_newer_options_are_known_to_a_newer_systemd_and_to_no_older(unit: Path) -> None:
    folder = unit.with_name(f"{unit.name}.d")
    folder.mkdir()
    (folder / DROP_IN.name).write_text(with_a_program(DROP_IN.read_text()))
    said = run("systemd-analyze", "verify", unit)
    unknown = re.findall(r"Unknown key(?: name)? '(\w+)'", said)
    if systemd_version() >= 254:
        assert said == ""
    else:
        assert unknown, "what this version knows belongs into the unit itself"
        assert set(unknown) == set(settings(DROP_IN)) - {"RestartSec", "Type", "ExecReload"}
        assert "notify-reload" in said, "a type this version knows belongs into the unit itself"


@has("systemd-analyze")
def test_the_exposure_does_not_grow(unit: Path) -> None:
    said = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    assert "Overall exposure level" in said


def test_options_that_break_gpu_services_are_left_out_with_their_reason() -> None:
    assert not LEFT_OUT & settings(UNIT).keys()
    for option in LEFT_OUT:
        assert re.search(rf"^#   {option}=\S* +\S", UNIT.read_text(), re.MULTILINE), option


def test_the_gpu_is_not_hidden() -> None:
    found = settings(UNIT)
    allowed = {line.split()[0] for line in found["DeviceAllow"]}
    assert {"char-nvidia", "char-nvidia-frontend", "char-nvidiactl", "char-nvidia-uvm", "char-nvidia-caps"} <= allowed
    assert "AF_NETLINK" in found["RestrictAddressFamilies"][0]
    before = found["After"][0].split()
    assert set(found["Wants"][0].split()) <= set(before), "the nodes must be there before this starts"


def test_what_is_delegated_is_what_the_daemon_takes() -> None:
    found = settings(UNIT)
    assert found["Delegate"] == [" ".join(cgroup_v2.CONTROLLERS)]
    assert found["MemoryMin"] == [f"{cgroup_v2.RESERVE // MIB}M"]
    assert found["OOMPolicy"] == ["continue"], "else one backend that is killed takes the service with it"
    assert settings(DROP_IN)["DelegateSubgroup"] == [cgroup_v2.DAEMON]
    assert "Delegate=memory pids" in cgroup_v2.REMEDY


def test_the_watchdog_and_the_notifier_fit_together(tmp_path: Path) -> None:
    found = settings(UNIT)
    assert (found["Type"], found["NotifyAccess"]) == (["notify"], ["main"])
    seconds = int(found["WatchdogSec"][0])
    told = {"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": str(seconds * 1_000_000)}
    assert SystemdNotifier(told).watchdog_interval_s == seconds / 2


def test_no_key_is_set_twice_by_accident() -> None:
    lists = {"DeviceAllow", "Environment", "ExecReload"}
    assert {key for key, values in settings(UNIT).items() if len(values) > 1} <= lists


def test_the_places_are_those_the_program_looks_in() -> None:
    found = settings(UNIT)
    assert found["ExecStart"] == [f"/opt/{places.NAME}/bin/llm-supervisord --config {places.SYSTEM_CONFIG}"]
    assert f"/var/lib/{found['StateDirectory'][0]}" == places.SYSTEM_STATE
    assert f"/run/{found['RuntimeDirectory'][0]}" == places.SYSTEM_RUN
    assert found["RuntimeDirectoryMode"] == ["0750"]
    for assignment in found["Environment"]:
        assert assignment.split("=")[1].startswith(f"%C/{found['CacheDirectory'][0]}")


def test_a_reload_is_checked_before_it_is_asked_for() -> None:
    check = f"/opt/{places.NAME}/bin/llm-supervisord --check {places.SYSTEM_CONFIG}"
    assert settings(UNIT)["ExecReload"] == [check, "/bin/kill -HUP $MAINPID"]
    # There the signal is systemd's own: a second one would be a second reload.
    newer = settings(DROP_IN)
    assert (newer["Type"], newer["ExecReload"]) == (["notify-reload"], ["", check])


def below(root: Path, source: Path, folder: str) -> Path:
    copy = root / folder / source.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, copy)
    return copy


@has("systemd-sysusers")
@pytest.mark.root
@pytest.mark.skipif("__import__('os').geteuid() != 0", reason="writes account files, so it needs root")
def test_the_user_is_made_with_its_groups(tmp_path: Path) -> None:
    below(tmp_path, USERS, "usr/local/lib/sysusers.d")
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", "llm-supervisord.sysusers.conf")
    (user,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if "llm-supervisord" in line]
    assert user.split(":")[5] == places.SYSTEM_STATE
    assert user.split(":")[6].endswith("nologin")
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert groups["video"] == groups["render"] == "llm-supervisord"
    found = settings(UNIT)
    assert found["User"] == found["Group"] == ["llm-supervisord"]


@has("systemd-tmpfiles")
@pytest.mark.root
@pytest.mark.skipif("__import__('os').geteuid() != 0", reason="changes owners, so it needs root")
def test_the_configuration_gets_its_modes(tmp_path: Path) -> None:
    (tmp_path / "etc/llm-supervisord").mkdir(parents=True)
    (tmp_path / "etc/llm-supervisord/config.yaml").write_text("{}")
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nllm-supervisord:x:4242:\n")
    below(tmp_path, FILES, "usr/local/lib/tmpfiles.d")
    run("systemd-tmpfiles", "--create", f"--root={tmp_path}", "llm-supervisord.tmpfiles.conf")
    for name, mode in (("", 0o750), ("config.yaml", 0o640)):
        status = (tmp_path / "etc/llm-supervisord" / name).stat()
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (mode, 0, 4242)


def assignments(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith("#")]


def test_the_kernel_knows_the_settings() -> None:
    for assignment in assignments(SYSCTL.read_text().splitlines()):
        name, _, value = assignment.partition("=")
        assert Path("/proc/sys", *name.split(".")).exists()
        assert 0 <= int(value) <= 100
