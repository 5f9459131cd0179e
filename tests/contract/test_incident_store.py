"""What every JobStore promises of incidents: the one on disk and the one that stands in for it in tests."""

from collections.abc import Awaitable, Callable
from dataclasses import fields, replace

import pytest

from supervisord.core.errors import ConflictError, InvalidRequestError, StoreUnavailableError
from supervisord.core.incident import Cost, Incident, IncidentKind
from supervisord.ports import IncidentFilter, JobStore
from tests.fakes.records import an_event, an_incident, incident_id


def bare(incident: Incident) -> Incident:
    return replace(incident, log=(), samples=(), facts={})


async def test_an_incident_is_read_back_as_it_was_put(store: JobStore) -> None:
    samples = [{"at": 1.0, "gpus": [{"free": None, "used": 2**40}]}]
    facts = {"argv": ["x", "ä"], "pids": {"1": True}}
    incident = an_incident(1, facts=facts, samples=tuple(samples))
    store.put_incident(incident)
    facts["argv"].append("later")  # type: ignore[attr-defined] # what it holds may change after it was put
    samples[0]["at"] = 9.0
    assert await store.incident(incident_id(1)) == an_incident(
        1,
        facts={"argv": ["x", "ä"], "pids": {"1": True}},
        samples=({"at": 1.0, "gpus": [{"free": None, "used": 2**40}]},),
    )


async def test_the_least_that_can_be_known(store: JobStore) -> None:
    least = Incident("x", 1.0, "left", IncidentKind.REFUSED, "no such file")
    store.put_incident(least)
    assert await store.incident("x") == least


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_newer_state_replaces_all_of_the_older(store: JobStore, apart: bool) -> None:
    first = an_incident(1, ended_at=None)
    later = Incident(
        first.id, 1001.0, "right", IncidentKind.HANG, "other", generation=9, cause="hang", permanent=True, status=0,
        log=("other",), in_flight=("c",), samples=({"at": 2.0},), ended_at=1100.0, outcome="parked",
        cost=Cost(1.0, 5, 6),
    )  # fmt: skip
    same = [each.name for each in fields(Incident) if getattr(first, each.name) == getattr(later, each.name)]
    assert same == ["id"]
    for state in (first, later):
        store.put_incident(state)
        if apart:
            await store.flush()
    assert await store.incident(first.id) == later
    assert await store.incidents(IncidentFilter()) == [bare(later)]
    assert await store.incidents(IncidentFilter(job="job-00000001")) == []
    assert await store.incidents(IncidentFilter(job="c", backend="right")) == [bare(later)]


async def test_an_incident_is_found_by_the_beginning_of_its_id(store: JobStore) -> None:
    for known in ("aa1", "aa12", "b"):
        store.put_incident(an_incident(known))
    found = {wanted: await store.incident(wanted) for wanted in ("aa1", "aa12", "b", "c", "", "ä\udcff")}
    ids = {wanted: None if incident is None else incident.id for wanted, incident in found.items()}
    assert ids == {"aa1": "aa1", "aa12": "aa12", "b": "b", "c": None, "": None, "ä\udcff": None}
    with pytest.raises(ConflictError, match="more than one incident begins with 'aa'"):
        await store.incident("aa")


async def test_incidents_come_newest_first_page_by_page_without_their_evidence(store: JobStore) -> None:
    for number in range(10):
        store.put_incident(an_incident(number))
    pages = []
    after = None
    while page := await store.incidents(IncidentFilter(limit=4, after=after)):
        after = page[-1].id
        pages.append([incident.id for incident in page])
        assert page[0] == bare(an_incident(page[0].id))
    assert pages == [[incident_id(number) for number in numbers] for numbers in ((9, 8, 7, 6), (5, 4, 3, 2), (1, 0))]


async def test_every_filter_alone_and_together(store: JobStore) -> None:
    for number in range(6):
        store.put_incident(
            an_incident(
                number,
                backend="left" if number % 2 == 0 else "right",
                kind=IncidentKind.HANG if number < 3 else IncidentKind.EXIT,
                at=1000.0 + number,
                in_flight=("a", "b") if number in {1, 2, 5} else (),
            )
        )

    async def found(**wanted: object) -> list[int]:
        return [int(incident.id[-1]) for incident in await store.incidents(IncidentFilter(**wanted))]  # type: ignore[arg-type]

    assert await found(backend="left") == [4, 2, 0]
    assert await found(kind="hang") == [2, 1, 0]
    assert await found(kind="no such") == []
    assert await found(since=1004.0) == [5, 4]
    assert await found(since=9999.0) == []
    assert await found(job="a") == await found(job="b") == [5, 2, 1]
    assert await found(job="nobody") == []
    assert await found(job="a", backend="right", since=1002.0) == [5]
    assert await found(job="a", kind="hang", after=incident_id(2)) == [1]
    assert await found(backend="right", kind="exit", limit=1) == [5]


async def test_since_holds_though_the_clock_was_put_back(store: JobStore) -> None:
    for number, at in enumerate((5000.0, 5001.0, 1000.0, 1001.0)):
        store.put_incident(an_incident(number, at=at))
    found = await store.incidents(IncidentFilter(since=1001.0))
    assert [incident.id for incident in found] == [incident_id(number) for number in (3, 1, 0)]


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_limit_out_of_range_is_refused(store: JobStore, limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="limit"):
        await store.incidents(IncidentFilter(limit=limit))


async def test_incidents_are_known_in_a_later_life(
    kind: str, make: Callable[[bool], JobStore], store: JobStore
) -> None:
    store.put_incident(an_incident(1))
    await store.close()
    later = store if kind == "memory" else make(True)
    await later.open()
    try:
        assert await later.incident("inc") == an_incident(1)
        assert await later.incidents(IncidentFilter(job="job-00000002")) == [bare(an_incident(1))]
    finally:
        await later.close()


async def test_a_closed_store_refuses(store: JobStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.put_incident(an_incident(1))
    queries: list[Awaitable[object]] = [store.incident("x"), store.incidents(IncidentFilter())]
    for query in queries:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await query


async def test_events_of_a_span_of_time(store: JobStore) -> None:
    """What an export tells of the time around an incident."""
    for number in range(6):
        store.put_event(an_event(str(number), at=1000.0 + number, backend="left" if number % 2 == 0 else None))

    async def found(limit: int = 9, **wanted: object) -> list[str]:
        events = await store.events(after=None, limit=limit, **wanted)  # type: ignore[arg-type]
        return [stored.event.message for stored in events]

    assert await found(since=1001.0, until=1004.0) == ["1", "2", "3"]
    assert await found(since=1001.0, until=1005.0, backend="left") == ["2", "4"]
    assert await found(limit=2, until=1004.0) == ["2", "3"]  # the newest of them
