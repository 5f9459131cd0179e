"""Looks at the daemon all the while: that it answers, what it takes, and that nothing is exceeded."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import aiohttp
import psutil

from tests.fakes.daemon import ROOT, Json
from tests.soak.house import SLOTS, House
from tests.soak.ledger import Cost

EVERY_S = 0.5
STATUS_WITHIN_S = 1.0
TICK_S = 0.01
PROGRAM_EVERY = 40  # looks between two runs of supctl itself, which mostly costs its own start
STRANGER_AFTERMATH_S = 8.0  # what was admitted before one came may find too little


class Watch:
    """Owned by the run. `costs` are of the daemon's present life."""

    def __init__(self, house: House, violated: Callable[[str], None]) -> None:
        self._house = house
        self._violated = violated
        self._refused = 0
        self.costs: list[Cost] = []
        self.lives: list[list[Cost]] = []
        self.answers: list[float] = []  # seconds each status took
        self.looks = 0

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self._house.up:
                await self._look()

    def new_life(self) -> None:
        """The daemon is another process from now on."""
        self.lives.append(self.costs)
        self.costs = []

    async def _look(self) -> None:
        self.looks += 1
        kills = len(self._house.kills)
        excused = [-_starved(self._house.daemon.pid)]
        began = monotonic()
        ticking = asyncio.get_running_loop().create_task(_tick(excused))
        try:
            async with asyncio.timeout(10 * STATUS_WITHIN_S):
                status = await self._house.daemon.status()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if len(self._house.kills) == kills:
                self._violated(f"the control socket does not answer: {error!r}")
            return
        finally:
            took = monotonic() - began
            ticking.cancel()
        self.answers.append(took)
        excused[0] += _starved(self._house.daemon.pid)
        if took - excused[0] > STATUS_WITHIN_S:
            self._violated(f"a status took {took:.2f} s, of which the machine is to blame for {excused[0]:.2f} s")
        self._check(status)
        self._measure()
        if self.looks % PROGRAM_EVERY == 0:
            await self._supctl(kills)

    def _check(self, status: Json) -> None:
        for backend in status["backends"]:
            most = SLOTS[backend["name"]]
            if backend["in_flight"] > most:
                self._violated(f"{backend['name']} has {backend['in_flight']} in flight, of {most}")
            if backend["phase"] == "unkillable":
                self._violated(f"{backend['name']} is unkillable: {backend['note']}")
        driver = self._house.driver
        refused = driver.claims.refused() if driver else []
        quiet = not self._house.strangers and monotonic() - self._house.stranger_left > STRANGER_AFTERMATH_S
        if len(refused) > self._refused and quiet:
            self._violated(
                f"a start found too little memory on the card: {refused[self._refused :]} bytes were refused"
            )
        self._refused = len(refused)

    def _measure(self) -> None:
        with suppress(psutil.Error):
            process = psutil.Process(self._house.daemon.pid)
            figures = process.num_fds(), process.num_threads(), process.memory_info().rss
            self.costs.append(Cost(monotonic(), *figures))

    async def _supctl(self, kills: int) -> None:
        command = (sys.executable, "-m", "supervisord.cli.supctl", "--socket", str(self._house.daemon.socket), "status")
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        if process.returncode != 0 and len(self._house.kills) == kills:
            self._violated(f"supctl status ended with {process.returncode}: {said.decode()[-300:]}")


async def _tick(late: list[float]) -> None:
    """For ever, add to the first of `late` how late this program itself is, in seconds: not the daemon's doing."""
    while True:
        began = monotonic()
        await asyncio.sleep(TICK_S)
        late[0] += monotonic() - began - TICK_S


def _starved(pid: int) -> float:
    """Seconds for which its loop could have run and had no processor (sched-stats.rst of the kernel); 0: not told."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
