"""Incidents as rows, and back: a small row to list, and the evidence apart from it, bounded and compressed."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from supervisord.adapters.store.plain import encoded, text
from supervisord.adapters.store.statements import Row
from supervisord.core.exits import Judgement
from supervisord.core.incident import Cost, Incident, IncidentKind, Step

MOST_EVIDENCE: Final = 1024 * 1024  # bytes of JSON; 200 lines and four minutes of samples take about 150 KB
MOST_JOBS: Final = 1000  # in flight, that are kept by their ids: more than any server here has slots
_FASTEST: Final = 1  # zlib's level: 6 ms for a MB; the default takes 24 ms to save a tenth more
_MARGIN: Final = 256  # bytes for what the cut itself is told with


@dataclass(frozen=True, slots=True)
class Packed:
    """An incident as the columns of `sql/put_incident.sql`, the ids of its jobs, and its evidence as JSON."""

    row: Row
    jobs: tuple[str, ...]
    evidence: bytes


def pack(incident: Incident) -> Packed:
    """Encoded at once, on the caller's thread: what it holds may change later. Compressing is left to the writer."""
    jobs = incident.in_flight[:MOST_JOBS]
    told = {"verdict": incident.verdict, "in_flight": jobs, "steps": incident.steps}
    cost = incident.cost
    row = (
        incident.id,
        incident.at,
        incident.backend,
        incident.kind._value_,
        incident.summary,
        incident.generation,
        incident.cause,
        int(incident.permanent),
        incident.status,
        incident.ended_at,
        incident.outcome,
        cost.downtime_s,
        cost.jobs_retried,
        cost.jobs_failed,
        text(told),
    )
    return Packed(row, jobs, _evidence(incident))


def compressed(evidence: bytes) -> bytes:
    """As it is stored."""
    return zlib.compress(evidence, _FASTEST)


def unpacked(row: Sequence[Any], body: bytes | None) -> Incident:
    """A row of `sql/incidents.sql`, with the stored evidence where that is wanted."""
    (*head, downtime_s, jobs_retried, jobs_failed, told) = row
    incident_id, at, backend, kind, summary, generation, cause, permanent, status, ended_at, outcome = head
    parts = msgspec.json.decode(told)
    evidence = {} if body is None else _read(body)
    return Incident(
        id=incident_id,
        at=at,
        backend=backend,
        kind=IncidentKind(kind),
        summary=summary,
        generation=generation,
        cause=cause,
        permanent=bool(permanent),
        status=status,
        verdict=tuple(Judgement(**each) for each in parts["verdict"]),
        log=tuple(evidence.get("log", ())),
        in_flight=tuple(parts["in_flight"]),
        facts=evidence.get("facts", {}),
        samples=tuple(evidence.get("samples", ())),
        steps=tuple(Step(**each) for each in parts["steps"]),
        ended_at=ended_at,
        outcome=outcome,
        cost=Cost(downtime_s, jobs_retried, jobs_failed),
    )


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = msgspec.json.decode(zlib.decompress(body))
    except (zlib.error, msgspec.DecodeError) as error:
        return {"facts": {"unreadable": f"the evidence is damaged in the store: {error}"}}
    return found


# --- the bound -------------------------------------------------------------------------------------------------------


def _evidence(incident: Incident) -> bytes:
    """Within MOST_EVIDENCE: the oldest samples go first, then the oldest lines, then the largest facts. It says so."""
    whole = encoded({"log": incident.log, "samples": incident.samples, "facts": incident.facts})
    more = len(incident.in_flight) - MOST_JOBS
    if len(whole) <= MOST_EVIDENCE and more <= 0:
        return whole
    facts, left_out = _small_facts(incident.facts)
    room = MOST_EVIDENCE - _MARGIN - len(encoded(facts)) - sum(len(name) + 4 for name in left_out)
    log = _newest([encoded(line) for line in incident.log], room)
    room -= sum(len(line) + 1 for line in log)
    samples = _newest([encoded(sample) for sample in incident.samples], room)
    cut = {
        "samples": len(incident.samples) - len(samples),
        "log_lines": len(incident.log) - len(log),
        "jobs_in_flight": max(0, more),
        "facts": left_out,
    }
    told = {**facts, "cut": {name: what for name, what in cut.items() if what}}
    return encoded(
        {"log": [msgspec.Raw(line) for line in log], "samples": [msgspec.Raw(s) for s in samples], "facts": told}
    )


def _small_facts(facts: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The facts without the largest of them, until they take half of the room at most; the names of the others."""
    sizes = {name: len(encoded(value)) for name, value in facts.items()}
    left_out: list[str] = []
    while sum(sizes.values()) > MOST_EVIDENCE // 2:
        largest = max(sizes, key=lambda name: sizes[name])
        del sizes[largest]
        left_out.append(largest)
    return {name: value for name, value in facts.items() if name in sizes}, left_out


def _newest(lines: Sequence[bytes], room: int) -> list[bytes]:
    """As many as find room from the last one on, in their order."""
    kept: list[bytes] = []
    for each in reversed(lines):
        room -= len(each) + 1
        if room < 0:
            break
        kept.append(each)
    return kept[::-1]
