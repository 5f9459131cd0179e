"""Random faults: of processes, of servers, of disks, of the card, of the service elsewhere, of the daemon itself."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic

import aiohttp
import psutil

from tests.soak.house import GIB, House

TREE_GONE_S = 5.0  # after a kill of the daemon: the promise

# What a stub does wrong from its next start on. Numbers are of requests.
ARMED = (
    "--die-before-first-byte 4", "--die-mid-stream 5", "--abort-with-cuda-oom-on-request 6", "--hang-on-request 7",
    "--hang-mid-stream 4", "--status 500 --times 3", "--status 503 --times 3", "--garbage --times 2",
    "--half-head --times 2", "--wrong-length shorter --times 2", "--reset --times 3",
    "--error-event-then-done --times 2", "--exit-after-ready 3", "--log-flood 30000000", "--load-stall",
    "--load-exit-oom", "--ignore-term", "--load-seconds 2", "--prefill-seconds 0.3",
)  # fmt: skip


class Faults:
    """`act` does one of them, drawn with these weights."""

    def __init__(self, house: House, dice: random.Random, violated: Callable[[str], None]) -> None:
        self._house = house
        self._dice = dice
        self._violated = violated
        self._daemon_dies_after = 0.0
        self._acts: Mapping[Callable[[], Awaitable[None]], int] = {
            self.leader_killed: 4,
            self.worker_killed: 3,
            self.leader_stopped: 2,
            self.worker_stopped: 1,
            self.armed: 8,
            self.disarmed: 4,
            self.stranger: 2 if house.driver else 0,
            self.blind: 1 if house.driver else 0,
            self.disk_full: 2 if house.logs else 0,
            self.service_fails: 3 if "cloud" in house.plan.backends else 0,
        }

    async def act(self) -> None:
        await self._dice.choices(list(self._acts), list(self._acts.values()))[0]()

    def healed(self) -> None:
        """Nothing goes wrong any more, from the next start of each backend on."""
        for name in self._house.stubs:
            self._house.arm(name, "")

    # --- processes -----------------------------------------------------------------------------------------------

    async def leader_killed(self) -> None:
        self._signal(await self._tree(), 0, signal.SIGKILL, "leader killed")

    async def worker_killed(self) -> None:
        self._signal(await self._tree(), -1, signal.SIGKILL, "worker killed")

    async def leader_stopped(self) -> None:
        self._signal(await self._tree(), 0, signal.SIGSTOP, "leader stopped")

    async def worker_stopped(self) -> None:
        self._signal(await self._tree(), -1, signal.SIGSTOP, "worker stopped")

    async def _tree(self) -> list[psutil.Process]:
        """Of some backend that runs; its leader first."""
        with suppress(aiohttp.ClientError, OSError, KeyError, ValueError):
            backends = (await self._house.daemon.status())["backends"]
            pids = [backend["pid"] for backend in backends if backend["pid"]]
            with suppress(psutil.Error):
                leader = psutil.Process(self._dice.choice(pids)) if pids else None
                return [leader, *leader.children(recursive=True)] if leader else []
        return []

    def _signal(self, tree: list[psutil.Process], which: int, number: signal.Signals, what: str) -> None:
        if not tree:
            return
        with suppress(psutil.Error):
            tree[which].send_signal(number)
            self._house.count(what)

    async def armed(self) -> None:
        flags = self._dice.choice(ARMED)
        self._house.arm(self._dice.choice(self._house.stubs), flags)
        self._house.count("armed: " + flags.split()[0][2:])

    async def disarmed(self) -> None:
        self._house.arm(self._dice.choice(self._house.stubs), "")

    # --- around them ---------------------------------------------------------------------------------------------

    async def stranger(self) -> None:
        """A process of nobody's takes what is left of the card, or some of it, and goes again."""
        house, driver = self._house, self._house.driver
        assert driver is not None
        size = self._dice.choice([2, 6, 12]) * GIB
        house.strangers += 1
        try:
            with suppress(AssertionError):  # so much is not free
                async with driver.stranger(size):
                    house.count("foreign memory")
                    await asyncio.sleep(self._dice.uniform(1, 4))
        finally:
            house.strangers -= 1
            house.stranger_left = monotonic()

    async def blind(self) -> None:
        """The driver does not answer for a while."""
        driver = self._house.driver
        assert driver is not None
        function = "nvmlDeviceGetMemoryInfo_v2"
        driver.fail(function, self._dice.choice([999, "block"]))
        self._house.count("driver fails")
        await asyncio.sleep(self._dice.uniform(1, 3))
        driver.heal(function)

    async def disk_full(self) -> None:
        disk = self._house.logs
        assert disk is not None
        disk.fill()
        self._house.count("disk of logs full")
        await asyncio.sleep(self._dice.uniform(1, 5))
        disk.free()

    async def service_fails(self) -> None:
        remote = self._house.remote
        what = self._dice.choice(["status", "hangs", "down"])
        self._house.count(f"service elsewhere: {what}")
        if what == "down":
            await remote.down()
        remote.hangs = what == "hangs"
        remote.status = self._dice.choice([429, 500, 503]) if what == "status" else 0
        await asyncio.sleep(self._dice.uniform(1, 3))
        remote.hangs, remote.status = False, 0
        if what == "hangs":  # what hangs there now is cut off: nobody else would ever end it
            await remote.down()
        if what != "status":
            await remote.up()

    # --- the daemon ----------------------------------------------------------------------------------------------

    async def daemon_killed(self) -> None:
        """With all it does; its tree must be gone within five seconds, and the next one must come up."""
        house = self._house
        house.up = False
        house.kills.append(monotonic())
        await house.daemon.kill()
        house.count("daemon killed")
        deadline = monotonic() + TREE_GONE_S
        while (left := house.marked()) and monotonic() < deadline:  # noqa: ASYNC110 - they are not ours
            await asyncio.sleep(0.05)
        if left:
            self._violated(f"{TREE_GONE_S:g} s after the daemon was killed there is still {named(left)}")
        await house.daemon.start(**house.environment)
        house.kills.append(monotonic())
        house.up = True


def named(processes: list[psutil.Process]) -> str:
    found = []
    for process in processes[:5]:
        with suppress(psutil.Error):
            found.append(f"{process.pid} ({' '.join(process.cmdline())[:80]})")
    return ", ".join(found)
