"""The mark of systemd-oomd: it writes on a control group that it kills the group, before it does so.

No log is asked: the journal is closed to the user of the service. earlyoom leaves no mark, and tells only the journal.
"""

import os
from collections.abc import Iterable
from pathlib import Path

# src/oom/oomd-util.c of systemd (oomd_cgroup_kill), and the oomd that it comes from: how often it chose the group.
_MARK = "user.oomd_ooms"


def kills(folders: Iterable[str]) -> int | None:
    """How often systemd-oomd killed these groups; None where no such mark can be seen: version 1, before Linux 5.7."""
    told = [count for folder in folders if (count := _of(folder)) is not None]
    return sum(told) if told else None


def _of(folder: str) -> int | None:
    try:
        if not Path(folder, "cgroup.events").exists():  # version 1 keeps no marks
            return None
        marked = _MARK in os.listxattr(folder)
        value = os.getxattr(folder, _MARK) if marked else b"0"
    except OSError:
        return None
    return int(value) if value.isdigit() else None
