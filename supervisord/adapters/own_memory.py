"""Keeps the daemon itself in memory: under pressure it is what has to act, and must not wait for its own pages."""

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # <sys/mman.h>; the last since Linux 4.4
_HOW: Final = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
_CAP_IPC_LOCK: Final = 14  # <linux/capability.h>


def lock() -> str:
    """Have the kernel keep what this process uses in RAM; why it does not, in words, else empty.

    Pages are locked as they are touched, so that address space which a library only reserves costs nothing. Children
    do not inherit it. With a finite limit of locked memory it is not even tried: once that is reached, every further
    mapping would fail (mlockall(2)).
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not _may_lock_anything():
        return f"this user may lock {limit // 1024} KiB of memory (LimitMEMLOCK=, ulimit -l); unlimited is needed"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_HOW) == 0:
        return ""
    return os.strerror(ctypes.get_errno())


def _may_lock_anything() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False
