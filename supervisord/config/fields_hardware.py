"""The kinds of value that name a part of the machine: GPUs and processors."""

import re
from typing import Annotated

from supervisord.config.fields import FORM, NUMBER_OR_TEXT, checked
from supervisord.config.units import quote

MOST_CPUS = 8192  # the largest CONFIG_NR_CPUS of Linux on x86-64

_GPU = re.compile(r"[0-9]{1,3}|(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")
_CPUS = re.compile(r"(?P<first>[0-9]{1,4})(?:-(?P<last>[0-9]{1,4}))?", re.ASCII)


def parse_gpu(value: object) -> str:
    """The index or UUID of a GPU, as CUDA_VISIBLE_DEVICES takes them."""
    if isinstance(value, int | str) and not isinstance(value, bool) and _GPU.fullmatch(str(value)):
        return str(value)
    raise ValueError(f"{quote(value)} is not a GPU; write its index, or its UUID as nvidia-smi -L shows it")


def parse_cpus(value: object) -> tuple[int, ...]:
    """The processors in "0-7,16" (as taskset writes them), a number, or a list of these: in order, once each."""
    parts = value if isinstance(value, list) else [value]
    return tuple(sorted({cpu for part in parts for cpu in _cpus_of(part)}))


def _cpus_of(part: object) -> set[int]:
    found: set[int] = set()
    for written in str(part).split(","):
        match = _CPUS.fullmatch(written.strip())
        if match is None:
            raise ValueError(f'{quote(part)} is not a list of processors; write "0-7,16" or [0, 1, 2]')
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if not first <= last < MOST_CPUS:
            raise ValueError(f"{quote(part)} is out of range; write 0 to {MOST_CPUS - 1}, the lower number first")
        found.update(range(first, last + 1))
    return found


Gpu = Annotated[str, *checked(parse_gpu, NUMBER_OR_TEXT)]
Cpus = Annotated[
    tuple[int, ...],
    *checked(parse_cpus, {"type": ["string", "integer", "array"], "items": NUMBER_OR_TEXT, FORM: "As 0-7,16."}),
]
