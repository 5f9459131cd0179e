"""An incident as a short story in plain words: what happened, why we believe so, what it cost, what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisord.core.exits import CauseKind, describe_status
from supervisord.core.incident import Incident, IncidentKind
from supervisord.core.story_words import CAUSES, GIVEN_UP, KINDS, OBVIOUS, RULES, UNKNOWN, Words

_MOST_IDS = 5  # of jobs, that are named
_MOST_STEPS = 12  # a restart has five or six
_MOST_RULED_OUT = 4
_MOST_EVIDENCE = 4
_LONGEST_LINE = 400  # characters of a line of the log: a C++ assertion with its path has 300

_TELLING = ("error", "out of memory", "fatal", "abort", "assert", "exception", "failed", "cannot", "killed", "signal")


@dataclass(frozen=True, slots=True)
class Part:
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """`headline` is one sentence. Times in it are relative to the incident: it knows no time zone."""

    headline: str
    parts: tuple[Part, ...]


def tell(incident: Incident) -> Story:
    """The story of an incident, whole or as it is listed (then without the line of its log)."""
    words = _words(incident)
    parts = (
        Part("What happened", tuple(_happened(incident, words))),
        Part("Why we believe so", tuple(_believed(incident))),
        Part("In flight", tuple(_in_flight(incident))),
        Part("What was done", tuple(_done(incident))),
        Part("What it cost", (_cost(incident),)),
        Part("What to do", tuple(_filled(advice, incident) for advice in _advice(incident, words))),
    )
    return Story(headline(incident), tuple(part for part in parts if part.lines))


def headline(incident: Incident) -> str:
    """One sentence: what happened to whom."""
    return _filled(_words(incident).headline, incident)


def _words(incident: Incident) -> Words:
    """By its kind where that tells more; an exit, or a start that was refused for a known cause, by its cause."""
    cause = _cause(incident)
    if incident.kind is IncidentKind.EXIT:
        return UNKNOWN if cause is None else CAUSES[cause]
    if incident.kind is IncidentKind.REFUSED and cause in {CauseKind.CONFIGURATION, CauseKind.EXHAUSTED}:
        return CAUSES[cause]
    if incident.kind is IncidentKind.SHRUNK and _is_parked(incident):
        return GIVEN_UP
    return KINDS[incident.kind]


def _cause(incident: Incident) -> CauseKind | None:
    try:
        return CauseKind(incident.cause)
    except ValueError:  # none, or one of a later version
        return None


def _filled(text: str, incident: Incident) -> str:
    return text.replace("{backend}", incident.backend).replace("{id}", incident.id)


# --- the parts -------------------------------------------------------------------------------------------------------


def _happened(incident: Incident, words: Words) -> Sequence[str]:
    lines = [f"{_capital(incident.summary)}."] if incident.summary else []
    if incident.generation is not None:
        ended = incident.status is not None and words is not CAUSES[CauseKind.UNREACHABLE]
        how = f", ended by {describe_status(incident.status)}" if ended else ""
        before = incident.facts.get("phase_before")
        was = f", while it was {before}" if isinstance(before, str) and before else ""
        lines.append(f"It was start {incident.generation} of {incident.backend}{_rung(incident.facts)}{how}{was}.")
    return [*lines, _filled(words.meaning, incident)]


def _rung(facts: Mapping[str, object]) -> str:
    rung = facts.get("rung")
    if not isinstance(rung, int) or isinstance(rung, bool):
        return ""
    return ", at its full size" if rung == 0 else f", on rung {rung} of its ladder"


def _believed(incident: Incident) -> Sequence[str]:
    matched = next((judgement for judgement in incident.verdict if judgement.matched), None)
    lines = _evidence(incident) if matched is None else [f"It shows {_rule(matched.rule)}: {matched.because}."]
    line = telling_line(incident)
    if line and not any(line in told for told in lines):
        said = "Its log says" if _complains(line) else "The last it wrote"
        lines.append(f"{said}: {_shortened(line)}")
    before = incident.verdict[: 0 if matched is None else incident.verdict.index(matched)]
    asked = [judgement for judgement in before if judgement.rule not in OBVIOUS]
    lines += [f"Not {_rule(judgement.rule)}: {judgement.because}." for judgement in asked[:_MOST_RULED_OUT]]
    return lines


def _evidence(incident: Incident) -> list[str]:
    """What its cause was told with, where no verdict was needed: we ended it ourselves, or it goes on."""
    told = incident.facts.get("evidence")
    lines = [each for each in told if isinstance(each, str)] if isinstance(told, list | tuple) else []
    return [f"{_capital(_shortened(line))}." for line in lines[:_MOST_EVIDENCE]]


def _rule(name: str) -> str:
    return RULES.get(name, name.replace("_", " "))


def telling_line(incident: Incident) -> str:
    """The line of its log that says most: one the verdict rests on, else the last that complains, else the last."""
    lines = [line.strip() for line in incident.log if line.strip()]
    told = (incident.summary, *(judgement.because for judgement in incident.verdict if judgement.matched))
    for line in lines:
        if len(line) > len("error:") and any(line in words for words in told):
            return line
    return ([line for line in lines if _complains(line)] or lines or [""])[-1]


def _complains(line: str) -> bool:
    low = line.lower()
    return any(word in low for word in _TELLING)


def _in_flight(incident: Incident) -> Sequence[str]:
    jobs = incident.in_flight
    if not jobs:
        return ("Nothing.",) if incident.kind is not IncidentKind.REFUSED else ()
    named = ", ".join(jobs[:_MOST_IDS])
    more = len(jobs) - _MOST_IDS
    rest = f" and {more} more" if more > 0 else ""
    return (f"{_count(len(jobs), 'request')}: {named}{rest}.", _became(incident), f"More: supctl why {jobs[0]}")


def _became(incident: Incident) -> str:
    cost, one = incident.cost, len(incident.in_flight) == 1
    ends = []
    if cost.jobs_retried:
        ends.append("it was run again" if one else f"{_were(cost.jobs_retried)} run again")
    if cost.jobs_failed:
        ends.append("it failed" if one else f"{cost.jobs_failed} failed")
    if ends:
        return f"{_capital(' and '.join(ends))}."
    if incident.ended_at is None:
        return f"What becomes of {'it' if one else 'them'} is not known yet."
    return "It did not fail by this." if one else "None of them failed by this."


def _were(count: int) -> str:
    return "1 was" if count == 1 else f"{count} were"


def _done(incident: Incident) -> Sequence[str]:
    steps = incident.steps
    shown = [f"{_after(step.at - incident.at)}  {_news(step.what, incident)}" for step in steps[-_MOST_STEPS:]]
    if len(steps) > _MOST_STEPS:
        shown.insert(0, f"({_count(len(steps) - _MOST_STEPS, 'step')} before)")
    outcome = _news(incident.outcome, incident)
    if outcome and not (steps and _news(steps[-1].what, incident) == outcome):
        shown.append(f"{outcome[0].upper()}{outcome[1:].rstrip('.')}.")
    elif not outcome and incident.ended_at is None:
        shown.append("It is still going on.")
    return shown


def _news(what: str, incident: Incident) -> str:
    """Without the reason where that is all of what the story began with."""
    phase, _, reason = what.partition(": ")
    return phase if reason and reason == incident.summary else what


def _after(seconds: float) -> str:
    return f"{seconds:+.1f} s"


def _cost(incident: Incident) -> str:
    cost = incident.cost
    if incident.ended_at is None and not (cost.downtime_s or cost.jobs_failed or cost.jobs_retried):
        return "Not known yet: it is still going on."
    losses = []
    if _is_parked(incident):
        losses.append(f"no {incident.backend} until it is started again")
    elif cost.downtime_s > 0:
        losses.append(f"{_span(cost.downtime_s)} without {incident.backend}")
    if cost.jobs_retried:
        losses.append(f"{_count(cost.jobs_retried, 'request')} run again")
    losses.append(f"{_count(cost.jobs_failed, 'request')} lost" if cost.jobs_failed else "no request lost")
    return f"{_capital(', '.join(losses))}."


def _is_parked(incident: Incident) -> bool:
    return incident.outcome.startswith("parked")


def _advice(incident: Incident, words: Words) -> Sequence[str]:
    if incident.permanent and words is not CAUSES[CauseKind.CONFIGURATION]:
        return (*words.advice, "It cannot heal by itself, so it is not tried again before: supctl reset {backend}.")
    return words.advice


# --- words -----------------------------------------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _capital(text: str) -> str:
    """Without a last full stop, and with a capital where it begins with a plain word: not a name in it."""
    text = text.strip().rstrip(".")
    first = text.split(" ", 1)[0]
    return text[0].upper() + text[1:] if first.isalpha() and first.islower() else text


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"
