"""The memory that the stub takes while it loads: of the stand-in GPU by a claim, of the host for real."""

import mmap
import os
from collections.abc import Iterator

from tests.fakes.nvml.claims import Claims
from tests.fakes.stub_options import Serving, size

STEPS = 20
BLOCK = b"\1" * 2**20


class Memory:
    def __init__(self, serving: Serving) -> None:
        self._vram = size(serving.vram)
        self._grows = serving.vram_load
        self._claims = Claims.of_environment() if self._vram else None
        self._gpu = self._claims.index(_device(serving)) if self._claims else 0
        self._ram = size(serving.ram)
        self._held: list[mmap.mmap] = []

    def steps(self) -> Iterator[bool]:
        """Take all of it, in as many steps; each says whether there was enough. Made for pauses between them."""
        for step in range(1, STEPS + 1):
            yield self._take_vram(step) and self._take_ram(step)

    @property
    def takes_any(self) -> bool:
        return bool(self._claims or self._ram)

    def _take_vram(self, step: int) -> bool:
        if self._claims is None or (step > 1 and not self._grows):
            return True
        return self._claims.claim(self._gpu, self._vram * step // STEPS if self._grows else self._vram)

    def _take_ram(self, step: int) -> bool:
        self.eat(self._ram * step // STEPS - sum(map(len, self._held)))
        return True

    def eat(self, more: int) -> None:
        """Allocate `more` bytes of the host's memory and write to all of them."""
        if more <= 0:
            return
        part = mmap.mmap(-1, more)
        while part.tell() < more:
            part.write(BLOCK[: more - part.tell()])
        self._held.append(part)


def _device(serving: Serving) -> str:
    return serving.vram_gpu or os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
