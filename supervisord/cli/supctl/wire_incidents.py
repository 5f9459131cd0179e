"""Incidents in the daemon's answers. Times are seconds since the epoch."""

from dataclasses import dataclass

from supervisord.cli.supctl.wire import Doc


@dataclass(frozen=True, slots=True)
class Part:
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    matched: bool
    because: str


@dataclass(frozen=True, slots=True)
class Incident:
    """The evidence (from `story` on) is there when one incident was asked for, not in a list."""

    id: str
    at: float | None
    ended_at: float | None
    backend: str
    generation: int | None
    kind: str
    cause: str
    headline: str
    summary: str
    outcome: str
    downtime_s: float | None
    jobs_retried: int
    jobs_failed: int
    in_flight: tuple[str, ...]
    story: tuple[Part, ...]
    verdict: tuple[Rule, ...]
    facts: Doc
    log: tuple[str, ...]
    samples: int
    first_sample: float | None
    last_sample: float | None

    @classmethod
    def read(cls, doc: Doc) -> "Incident":
        samples = doc.each("samples")
        return cls(
            id=doc.text("id"),
            at=doc.number("at"),
            ended_at=doc.number("ended_at"),
            backend=doc.text("backend"),
            generation=doc.whole("generation"),
            kind=doc.text("kind"),
            cause=doc.text("cause"),
            headline=doc.text("headline"),
            summary=doc.text("summary"),
            outcome=doc.text("outcome"),
            downtime_s=doc.number("downtime_s"),
            jobs_retried=doc.count("jobs_retried"),
            jobs_failed=doc.count("jobs_failed"),
            in_flight=doc.texts("in_flight"),
            story=tuple(Part(each.text("title"), each.texts("lines")) for each in doc.child("story").each("parts")),
            verdict=tuple(
                Rule(each.text("rule"), each.flag("matched"), each.text("because")) for each in doc.each("verdict")
            ),
            facts=doc.child("facts"),
            log=doc.texts("log"),
            samples=len(samples),
            first_sample=samples[0].number("at") if samples else None,
            last_sample=samples[-1].number("at") if samples else None,
        )
