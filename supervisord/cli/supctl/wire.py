"""What the daemon answers, as values. Unknown keys are ignored, and what is missing or of another type is absent.

Sizes are bytes, spans seconds, ratios 0..1. Texts come without control characters: names and notes are partly
written by clients and by backends, and must not steer the operator's terminal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


def clean(text: str) -> str:
    """`text` on one line, each control character a space."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)


@dataclass(frozen=True, slots=True)
class Doc:
    """A JSON object with accessors that never fail."""

    values: Mapping[str, object]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        return clean(value) if isinstance(value, str) else ""

    def lines(self, key: str) -> str:
        """A text of several lines, each of them clean."""
        value = self.values.get(key)
        return "\n".join(clean(line) for line in value.splitlines()) if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return value

    def whole(self, key: str) -> int | None:
        value = self.number(key)
        return None if value is None else int(value)

    def count(self, key: str) -> int:
        return self.whole(key) or 0

    def flag(self, key: str) -> bool:
        return self.values.get(key) is True

    def child(self, key: str) -> "Doc":
        value = self.values.get(key)
        return Doc(value if isinstance(value, dict) else {})

    def each(self, key: str) -> tuple["Doc", ...]:
        value = self.values.get(key)
        return tuple(Doc(item) for item in value if isinstance(item, dict)) if isinstance(value, list) else ()

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        return tuple(clean(item) for item in value if isinstance(item, str)) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Queue:
    depth: int
    limit: int
    oldest_s: float | None
    paused: str
    in_flight: int
    backlog: int  # durable jobs that wait; `depth` are those whose clients do

    @classmethod
    def read(cls, doc: Doc) -> "Queue":
        return cls(
            depth=doc.count("depth"),
            limit=doc.count("limit"),
            oldest_s=doc.number("oldest_s"),
            paused=doc.text("paused"),
            in_flight=doc.count("in_flight"),
            backlog=doc.count("backlog"),
        )


@dataclass(frozen=True, slots=True)
class Host:
    pressure: str
    ram_total: int
    ram_available: int
    swap_total: int
    swap_used: int
    swap_in_rate: float | None  # bytes/s
    swap_out_rate: float | None
    stall_percent: float | None
    missing: tuple[str, ...]
    sample_age_s: float | None

    @classmethod
    def read(cls, doc: Doc) -> "Host":
        return cls(
            pressure=doc.text("pressure"),
            ram_total=doc.count("ram_total_bytes"),
            ram_available=doc.count("ram_available_bytes"),
            swap_total=doc.count("swap_total_bytes"),
            swap_used=doc.count("swap_used_bytes"),
            swap_in_rate=doc.number("swap_in_bytes_per_s"),
            swap_out_rate=doc.number("swap_out_bytes_per_s"),
            stall_percent=doc.number("stall_some_percent"),
            missing=doc.texts("missing"),
            sample_age_s=doc.number("sample_age_s"),
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a GPU: a backend's by the backend's name, a foreign one's by its own."""

    name: str
    pid: int
    used: int | None

    @classmethod
    def read(cls, doc: Doc) -> "Holder":
        return cls(name=doc.text("name"), pid=doc.count("pid"), used=doc.whole("used_bytes"))


@dataclass(frozen=True, slots=True)
class Gpu:
    index: int
    uuid: str
    name: str
    state: str
    problem: str
    pressure: str
    total: int
    used: int
    utilization: float | None
    temperature_c: float | None
    power_w: float | None
    sample_age_s: float | None
    holders: tuple[Holder, ...]

    @classmethod
    def read(cls, doc: Doc) -> "Gpu":
        return cls(
            index=doc.count("index"),
            uuid=doc.text("uuid"),
            name=doc.text("name"),
            state=doc.text("state"),
            problem=doc.text("problem"),
            pressure=doc.text("pressure"),
            total=doc.count("vram_total_bytes"),
            used=doc.count("vram_used_bytes"),
            utilization=doc.number("utilization_ratio"),
            temperature_c=doc.number("temperature_c"),
            power_w=doc.number("power_w"),
            sample_age_s=doc.number("sample_age_s"),
            holders=tuple(Holder.read(item) for item in doc.each("holders")),
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """A backend in a pool. `source`: how `expected` is known: configured, learned, estimated, unknown."""

    backend: str
    standing: str
    held: int
    expected: int | None
    source: str

    @classmethod
    def read(cls, doc: Doc) -> "Tenant":
        return cls(
            backend=doc.text("backend"),
            standing=doc.text("standing"),
            held=doc.count("held_bytes"),
            expected=doc.whole("expected_bytes"),
            source=doc.text("source"),
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """Memory that is shared: the host's, or one GPU's (`key` is its UUID)."""

    key: str
    label: str
    reserve: int
    problem: str
    tenants: tuple[Tenant, ...]
    foreign: tuple[Holder, ...]
    unexplained: int

    @classmethod
    def read(cls, doc: Doc) -> "Pool":
        return cls(
            key=doc.text("key"),
            label=doc.text("label"),
            reserve=doc.count("reserve_bytes"),
            problem=doc.text("problem"),
            tenants=tuple(Tenant.read(item) for item in doc.each("holders")),
            foreign=tuple(Holder.read(item) for item in doc.each("foreign")),
            unexplained=doc.count("unexplained_bytes"),
        )
