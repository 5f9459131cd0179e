"""More models than the card holds: they take turns, nobody starves, nothing is lost, memory is never given twice."""

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.best_order import Served, fewest_loads
from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json
from tests.fakes.fleet import CARD, GIB, RESERVE, cards, fleet, heavy
from tests.fakes.nvml.driver import FakeDriver

pytestmark = pytest.mark.e2e

MAX_WAIT_S = 3.0
SIZES = {"huge": 14.0, "large": 10.0, "middle": 8.0, "small": 6.0}
ROOM = (CARD - RESERVE) / GIB
# What a change of places takes besides the load: the last answers, the stop, the release, on a machine busy with tests.
SLACK_S = 1.5


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    return cards(pytestconfig, tmp_path)


def turns(folder: Path, gib: float, number: int, **settings: object) -> Json:
    """A backend whose answers take 30 to 80 ms and whose load takes 0.3 to 0.5 s."""
    flags = ("--load-seconds", f"{0.3 + 0.05 * number}", "--prefill-seconds", f"{0.03 + 0.015 * number}")
    waits = {"max_wait": f"{MAX_WAIT_S}s", "min_residence": "300ms"}
    return heavy(folder, gib, *flags, **(waits | settings))


def waits_of(jobs: list[Json]) -> dict[str, float]:
    """The longest wait of each model's jobs, seconds."""
    longest: dict[str, float] = {}
    for job in jobs:
        longest[job["model"]] = max(longest.get(job["model"], 0.0), job["queue_wait_s"])
    return longest


async def loads_of(daemon: Daemon) -> int:
    return sum(backend["generation"] for backend in (await daemon.status())["backends"])


async def longest_load(daemon: Daemon) -> float:
    """Seconds from being given its place to ready, the longest of all."""
    began: dict[str, float] = {}
    longest = 0.0
    for event in await daemon.events():
        if event["kind"] == "placement.admitted":
            began[event["backend"]] = event["at"]
        elif event["kind"] == "backend.phase" and event["message"].endswith(" is ready"):
            longest = max(longest, event["at"] - began[event["backend"]])
    return longest


def as_served(jobs: list[Json]) -> list[Served]:
    return [Served(job["model"], job["submitted_at"], job["submitted_at"] + job["queue_wait_s"]) for job in jobs]


async def test_two_hundred_mixed_requests(tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession) -> None:
    """All answered, no memory given twice, hardly more loads than a clairvoyant needs, nobody waits for too long."""
    chance = random.Random(7)
    backends = {name: turns(tmp_path, gib, number) for number, (name, gib) in enumerate(SIZES.items())}
    clients = [
        [Ask(chance.choice(list(SIZES)), chance.uniform(0, 0.05), f"client {c} request {n}") for n in range(25)]
        for c in range(8)
    ]
    async with fleet(tmp_path, driver, backends) as daemon:
        seen = await crowd(http, daemon, clients)
        assert failed(seen) == []
        assert len(seen) == 200
        jobs = await daemon.jobs()
        assert [job["status"] for job in jobs] == ["done"] * 200
        loads, one_load = await loads_of(daemon), await longest_load(daemon)
    assert driver.claims.refused() == [], "nothing was started into too little memory"
    assert driver.claims.peak(0) <= CARD - RESERVE
    best = fewest_loads(as_served(jobs), SIZES, ROOM)
    assert loads <= 1.5 * best, f"{loads} loads, {best} would have done"
    assert max(waits_of(jobs).values()) <= MAX_WAIT_S + one_load + SLACK_S


async def test_two_clients_on_one_model_cannot_starve_another(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"a": turns(tmp_path, 14, 0), "b": turns(tmp_path, 14, 1)}
    async with fleet(tmp_path, driver, backends) as daemon:
        assert (await ask(http, daemon, "a")).status == 200
        async with asyncio.TaskGroup() as group:
            hammering = [group.create_task(_hammer(http, daemon, "a")) for _ in range(2)]
            for _ in range(3):
                seen = await ask(http, daemon, "b")
                assert seen.status == 200
                assert seen.took <= MAX_WAIT_S + await longest_load(daemon) + SLACK_S
                await asyncio.sleep(0.5)
            for one in hammering:
                one.cancel()
    assert driver.claims.refused() == []


async def _hammer(http: aiohttp.ClientSession, daemon: Daemon, model: str) -> None:
    while True:
        assert (await ask(http, daemon, model)).status == 200


async def test_a_batch_beside_a_trickle_does_not_thrash(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """Sixty of A at once, one of B every 0.4 s: not a swap for each of B's."""
    backends = {"a": turns(tmp_path, 14, 3), "b": turns(tmp_path, 14, 0)}
    batch: list[list[Ask]] = [[Ask("a")] for _ in range(60)]
    trickle = [[Ask("b", 0.4) for _ in range(8)]]
    async with fleet(tmp_path, driver, backends) as daemon:
        assert (await ask(http, daemon, "a")).status == 200
        seen = await crowd(http, daemon, batch + trickle)
        assert failed(seen) == []
        # B's are answered one by one: each can cost a pair of loads only as often as it had to wait for its turn.
        work_s = max(one.ended_at for one in seen) - min(one.asked_at for one in seen)
        assert await loads_of(daemon) <= 2 + 2 * (work_s / MAX_WAIT_S + 1)
        assert waits_of(await daemon.jobs())["b"] <= MAX_WAIT_S + await longest_load(daemon) + SLACK_S


async def test_models_that_fit_together_stay_together(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"large": turns(tmp_path, 10, 0), "middle": turns(tmp_path, 8, 1)}
    clients = [[Ask(name) for _ in range(10)] for name in backends for _ in range(2)]
    async with fleet(tmp_path, driver, backends) as daemon:
        assert failed(await crowd(http, daemon, clients)) == []
        assert await loads_of(daemon) == 2


async def test_the_card_is_shared_by_no_more_than_fit_when_all_start_at_once(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """Twelve requests for four models reach an empty card at the same moment."""
    backends = {name: turns(tmp_path, gib, 0) for name, gib in SIZES.items()}
    async with fleet(tmp_path, driver, backends) as daemon:
        assert failed(await crowd(http, daemon, [[Ask(name)] for name in SIZES for _ in range(3)])) == []
        assert await loads_of(daemon) == 4
    assert driver.claims.refused() == []
    assert driver.claims.peak(0) <= CARD - RESERVE
