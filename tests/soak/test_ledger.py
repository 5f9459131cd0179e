"""The soak finds what it is there to find: each thing that must not be, played to its ledger."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.soak.ledger import Cost, Sight, View, contradictions, growth, told_twice
from tests.soak.plan import read

MIB = 2**20

WRONG: list[tuple[str, Sight, str | None]] = [
    ("a whole answer of a failed job", Sight(View.WHOLE, 50.0, "j", 200), "failed"),
    ("a cut answer of a job that is done", Sight(View.CUT, 50.0, "j", 200), "done"),
    ("an error of a job that is done", Sight(View.ERROR, 50.0, "j", 502), "done"),
    ("a job that has no record", Sight(View.WHOLE, 50.0, "j", 200), None),
    ("a job that has not ended", Sight(View.LEFT, 50.0, "j", 200), "running"),
    ("abandoned, and no daemon had died", Sight(View.CUT, 50.0, "j", 200), "abandoned"),
    ("refused, and yet served", Sight(View.ERROR, 50.0, "j", 503, "draining"), "done"),
    ("cut off, and not accepted", Sight(View.CUT, 50.0, "j", 200, "draining"), None),
    ("no answer at all", Sight(View.LOST, 50.0), None),
    ("an answer that never came", Sight(View.GAVE_UP, 50.0), None),
]


def records(status: str | None) -> Mapping[str, Mapping[str, str]]:
    return {} if status is None else {"j": {"status": status, "reason": ""}}


@pytest.mark.parametrize(("what", "sight", "status"), WRONG, ids=[row[0] for row in WRONG])
def test_what_must_not_be_is_found(what: str, sight: Sight, status: str | None) -> None:
    assert contradictions([sight], records(status), kills=[]) != []


@pytest.mark.parametrize(
    ("sight", "status"),
    [
        (Sight(View.WHOLE, 50.0, "j", 200), "done"),
        (Sight(View.CUT, 50.0, "j", 200), "failed"),
        (Sight(View.ERROR, 50.0, "j", 499), "cancelled"),
        (Sight(View.ERROR, 50.0, "j", 503, "draining"), None),
        (Sight(View.ERROR, 50.0, "j", 503, "draining"), "failed"),
        (Sight(View.CUT, 50.0, "j", 200, "draining"), "failed"),
        (Sight(View.LEFT, 50.0, "j", 200), "done"),
        (Sight(View.LEFT, 50.0), None),
    ],
)
def test_what_may_be_is_not(sight: Sight, status: str | None) -> None:
    assert contradictions([sight], records(status), kills=[]) == []


def test_what_a_kill_of_the_daemon_takes_along_is_no_contradiction() -> None:
    cut = Sight(View.CUT, 50.0, "j", 200)
    assert contradictions([cut], records("abandoned"), kills=[50.2]) == []
    assert contradictions([cut], records("abandoned"), kills=[60.0]) != []


def test_one_job_for_two_clients() -> None:
    sight = Sight(View.WHOLE, 50.0, "j", 200)
    assert contradictions([sight, sight], records("done"), kills=[]) == ["job j was told to two clients"]


def test_an_end_that_is_told_twice() -> None:
    log = ['level=info event="job done" id=a x=1', 'event="job failed" id=b', 'event="job cancelled" id=a']
    assert told_twice(log) == ["job a ended more than once"]
    assert told_twice(log[:2]) == []


def life(seconds: int, **leak: float) -> list[Cost]:
    """A life whose figures go up and down with the load, with so much more of one of them each second."""
    return [
        Cost(
            float(at),
            int(40 + at % 7 + leak.get("descriptors", 0) * at),
            int(10 + leak.get("threads", 0) * at),
            int(60 * MIB + at % 5 * MIB + leak.get("rss", 0) * at),
        )
        for at in range(seconds)
    ]


def test_a_leak_is_found_and_load_is_not() -> None:
    assert growth(life(200)) == []
    assert "descriptors" in growth(life(200, descriptors=0.1))[0]
    assert "threads" in growth(life(200, threads=0.05))[0]
    assert "rss" in growth(life(200, rss=0.3 * MIB))[0]
    assert growth(life(40, descriptors=1)) == [], "too short to tell"


def test_memory_that_settles_is_no_leak_and_a_slow_one_shows_over_a_longer_life() -> None:
    settling = [replace(cost, rss=cost.rss + int(min(cost.at, 300) / 300 * 12 * MIB)) for cost in life(1200)]
    assert growth(settling) == []
    assert "rss" in growth(life(1200, rss=0.02 * MIB))[0]


def test_the_same_seed_gives_the_same_dice() -> None:
    plan = read(["--seed", "7", "--minutes", "1", "--backends", "vllm,cloud", "--real"])
    assert plan.backends == ("vllm", "cloud", "real")
    assert plan.dice("faults").random() == plan.dice("faults").random() != plan.dice("clients").random()
