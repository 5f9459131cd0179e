"""One run of the soak, from the first start to the verdict."""

import asyncio
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp

from tests.fakes.clients import ask
from tests.fakes.leaves import left_standing
from tests.fakes.remote import remote
from tests.soak.faults import Faults, named
from tests.soak.house import SLOTS, House, built
from tests.soak.ledger import Sight, contradictions, growth, told_twice
from tests.soak.load import Load
from tests.soak.operators import Operator
from tests.soak.plan import Plan
from tests.soak.watch import Watch

FAULT_EVERY_S = 1.2  # on average
VERB_EVERY_S = 2.5
CALM_S = 45.0  # for everything to serve again at the end
QUIET_S = 70.0  # for the last of the clients to get their answers: as long as one may take
KEPT = 50  # violations; the first ones tell


@dataclass(slots=True)
class Verdict:
    """What a run came to. `violations` are in words, the first of them first."""

    plan: Plan
    violations: list[str] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    records: dict[str, Any] = field(default_factory=dict)
    watch: Watch | None = None
    house: House | None = None
    seconds: float = 0.0
    interrupted: bool = False

    def violated(self, what: str) -> None:
        if len(self.violations) < KEPT:
            self.violations.append(what)


async def soak(plan: Plan, verdict: Verdict) -> None:
    """Run it; what is found is in `verdict`, also when this is cancelled."""
    with ExitStack() as stack:
        folder = plan.folder
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="soak-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        async with remote() as service:
            house = stack.enter_context(built(plan, folder, service))
            verdict.house = house
            began = monotonic()
            try:
                await house.daemon.start(**house.environment)
                await _Run(house, verdict).run()
            finally:
                verdict.seconds = monotonic() - began
                await _end(house, verdict)


async def _end(house: House, verdict: Verdict) -> None:
    """Stop the daemon, however it went; nothing of it may be left."""
    house.up = False
    process = house.daemon.process
    if process is not None and process.returncode is None:
        try:
            status = await house.daemon.terminate()
            if status:
                verdict.violated(f"the daemon ended with status {status}")
        except TimeoutError:
            verdict.violated("the daemon did not end within 30 s of SIGTERM")
            await house.daemon.kill()
    _keep_costs(house, verdict)
    await _look_for_leftovers(house, verdict)
    for text in told_twice(house.daemon.log().splitlines()):
        verdict.violated(text)
    if "Traceback" in house.daemon.log():
        verdict.violated("the daemon's log has a traceback: " + _traceback(house.daemon.log()))
    _judge_store(house, verdict)


async def _look_for_leftovers(house: House, verdict: Verdict) -> None:
    if left := house.marked():
        verdict.violated(f"left behind: {named(left)}")
        for orphan in left:
            orphan.kill()
    if groups := await left_standing(house.folder / "state"):
        verdict.violated(f"control groups left behind: {', '.join(map(str, sorted(groups)))}")


def _keep_costs(house: House, verdict: Verdict) -> None:
    """The daemon's figures over time, for who wants to see how something grew."""
    if verdict.watch is None:
        return
    lines = ["life,at,descriptors,threads,rss"]
    for number, life in enumerate([*verdict.watch.lives, verdict.watch.costs], 1):
        lines += [f"{number},{cost.at:.1f},{cost.descriptors},{cost.threads},{cost.rss}" for cost in life]
    (house.folder / "costs.csv").write_text("\n".join(lines) + "\n")


def _traceback(log: str) -> str:
    return log[log.index("Traceback") :][:1500]


def _judge_store(house: House, verdict: Verdict) -> None:
    store = house.folder / "state" / "jobs.sqlite3"
    if not store.exists():
        return
    with closing(sqlite3.connect(store)) as connection:
        found = connection.execute("SELECT id, status, reason FROM jobs").fetchall()
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            verdict.violated(f"{store} is damaged")
    verdict.records = {job: {"status": status, "reason": reason} for job, status, reason in found}
    for text in contradictions(verdict.sights, verdict.records, house.kills):
        verdict.violated(text)


class _Run:
    def __init__(self, house: House, verdict: Verdict) -> None:
        self._house = house
        self._plan = house.plan
        self._verdict = verdict
        self._watch = verdict.watch = Watch(house, verdict.violated)
        self._faults = Faults(house, house.plan.dice("faults"), verdict.violated)
        self._operator = Operator(house, house.plan.dice("operator"), verdict.violated)
        self._load = Load(house, verdict.sights.append)
        self._ends = False

    async def run(self) -> None:
        self._house.up = True
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch.run())
            load = group.create_task(self._load.run())
            acting = [
                group.create_task(self._now_and_then(self._faults.act, FAULT_EVERY_S, "pace of faults")),
                group.create_task(self._now_and_then(self._operator.act, VERB_EVERY_S, "pace of verbs")),
                group.create_task(self._daemon_dies()),
            ]
            await asyncio.sleep(self._plan.seconds)
            self._ends = self._load.ends = True
            for task in acting:  # each undoes what it has begun
                await asyncio.wait([task], timeout=30)
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await load
            if not load.done():
                self._verdict.violated(f"clients still wait {QUIET_S:g} s after the last fault")
            await self._calm()
            watching.cancel()
        self._verdict_on_slots()
        for text in growth(self._watch.costs):
            self._verdict.violated(text)

    async def _now_and_then(self, act: Callable[[], Awaitable[None]], every_s: float, who: str) -> None:
        dice = self._plan.dice(who)
        while not self._ends:
            await asyncio.sleep(min(dice.expovariate(1 / every_s), 5 * every_s))
            if self._house.up and not self._ends:
                await act()

    async def _daemon_dies(self) -> None:
        """A few times in the first half: the second is long enough to see what grows."""
        dice: random.Random = self._plan.dice("daemon")
        first, last = 0.1 * self._plan.seconds, 0.4 * self._plan.seconds
        moments = sorted(dice.uniform(first, last) for _ in range(max(2, int(self._plan.minutes / 5))))
        began = monotonic()
        for moment in moments:
            while not self._ends and monotonic() < began + moment:  # noqa: ASYNC110 - two ways to end
                await asyncio.sleep(0.2)
            if not self._ends:
                await self._faults.daemon_killed()
                self._watch.new_life()

    async def _calm(self) -> None:
        self._faults.healed()
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as http:

            async def serves(name: str) -> bool:
                with suppress(aiohttp.ClientError, TimeoutError):
                    return (await ask(http, self._house.daemon, name, max_tokens=1)).status == 200
                return False

            await self._operator.all_serve(serves, CALM_S)
        queue = (await self._house.daemon.status())["queue"]
        if queue["depth"] or queue["in_flight"]:
            self._verdict.violated(f"with nobody there the queue is not empty: {queue}")

    def _verdict_on_slots(self) -> None:
        for name in self._house.stubs:
            most = max(self._house.peaks(name), default=0)
            if most > SLOTS[name]:
                self._verdict.violated(f"{name} had {most} requests at once, of {SLOTS[name]}")
