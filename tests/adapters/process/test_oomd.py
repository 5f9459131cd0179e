"""The mark that systemd-oomd leaves on a control group: on plain folders, and on groups of the real kernel."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisord.adapters.process import oomd

MARK = "user.oomd_ooms"
UNIFIED = next(
    (
        path
        for path in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))
        if (path / "cgroup.controllers").exists()
    ),
    None,
)


@pytest.fixture
def group() -> Iterator[Path]:
    assert UNIFIED is not None
    group = UNIFIED / f"llm-supervisord-test-oomd-{os.getpid()}"
    group.mkdir()
    yield group
    group.rmdir()


@pytest.mark.root
@pytest.mark.skipif(UNIFIED is None or not os.access(UNIFIED, os.W_OK), reason="needs cgroup version 2, and root")
def test_the_mark_is_counted_on_a_real_group(group: Path) -> None:
    assert oomd.kills([str(group)]) == 0
    os.setxattr(group, MARK, b"2")
    assert oomd.kills([str(group), "/no/such/group"]) == 2


@pytest.mark.root
@pytest.mark.skipif(not Path("/sys/fs/cgroup/memory/cgroup.procs").exists(), reason="needs cgroup version 1")
def test_version_1_tells_nothing() -> None:
    assert oomd.kills(["/sys/fs/cgroup/memory"]) is None


def test_what_is_no_group_or_no_number_tells_nothing(tmp_path: Path) -> None:
    assert oomd.kills([]) is None
    assert oomd.kills([str(tmp_path)]) is None
    (tmp_path / "cgroup.events").write_text("populated 0\n")
    try:
        os.setxattr(tmp_path, MARK, b"many")
    except OSError:
        pytest.skip("needs a file system for temporary files that keeps extended attributes")
    assert oomd.kills([str(tmp_path)]) is None
    os.removexattr(tmp_path, MARK)
    assert oomd.kills([str(tmp_path)]) == 0
