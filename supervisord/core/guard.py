"""Who gives up memory when a pool is short of it: the mildest move that helps, one at a time; its effect is awaited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from supervisord.core.memory import MIB, Pressure


class Move(StrEnum):
    """What a backend can be asked to do, mildest first."""

    EVICT = "evict"  # an idle one leaves; the next request brings it back
    SHRINK = "shrink"  # one that loads or serves drains, and comes back one rung smaller
    PARK = "park"  # the same, and stays away: it has no rung left


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """`worth`: bytes in a pool below which nobody has to leave it: that would not help.

    `slack`: bytes by which a pool must have become fuller since a backend settled in it, before a pool that is merely
    tight costs the backend its place: a card may be full by design.
    `effect_s`: how long the effect of a move is awaited; a drain and a stop have their own bounds, this is beyond them.
    `helpless_s`: how long nobody could help before that is said: what each holds is measured every two seconds.
    """

    worth: int = 64 * MIB
    slack: int = 256 * MIB
    effect_s: float = 120.0
    helpless_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Strait:
    """One pool as the latest sample shows it. Bytes; `began` is when that sample was begun (monotonic).

    `lag_s`: for so long a sample still shows what was before it: rates are means over a while.

    `theirs`: what processes that are not ours hold, named in `who`; `short`: what is missing until it is not critical
    any more. Where theirs alone is that much, ours are left in peace on a GPU, whose memory they have already; the host
    must live on whoever is to blame.
    """

    key: str
    label: str
    pressure: Pressure
    free: int
    began: float
    theirs: int = 0
    short: int = 0
    who: str = ""
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Resident:
    """A backend that holds memory. `holds` and `settled`: bytes by pool.

    `settled`: what was free in each of its pools when it had taken its place. `moving`: it is leaving, so that what it
    holds is about to be free.
    """

    name: str
    idle: bool
    moving: bool
    smaller: bool  # its ladder has a rung left
    priority: int
    last_used: float
    pinned: bool = False
    loading: bool = False  # nobody is being served by it yet
    holds: Mapping[str, int] = field(default_factory=dict)
    settled: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pending:
    """A move whose effect is awaited. `free`: bytes that were free in the pool before it."""

    move: Move
    name: str
    pool: str
    since: float
    free: int


@dataclass(frozen=True, slots=True)
class GuardState:
    """`sighted`: pools that a sample has shown in need, and when it was begun: acted upon when the next one agrees.

    `relieved`: when the last move for each pool had had its effect: what was before that asks for no other one.
    """

    pending: Pending | None = None
    sighted: Mapping[str, float] = field(default_factory=dict)
    relieved: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """Do this, because of that pool."""

    move: Move
    name: str
    pool: str
    why: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What a move has brought: `freed` bytes, negative where others took more. `late`: it was not seen to end."""

    pending: Pending
    freed: int
    took_s: float
    late: bool


@dataclass(frozen=True, slots=True)
class Decision:
    state: GuardState
    order: Order | None = None
    effect: Effect | None = None
    helpless: tuple[str, ...] = ()  # pools in need where nobody of ours could help


def decide(
    state: GuardState, straits: Sequence[Strait], residents: Sequence[Resident], now: float, policy: GuardPolicy
) -> Decision:
    """What to do after a sample. Nothing is done before a second sample has confirmed what a first one showed."""
    effect = _effect(state.pending, straits, residents, now, policy)
    if state.pending is not None and effect is None:
        return Decision(state)
    relieved = state.relieved if effect is None else _relieved(state.relieved, effect, straits)
    current = (s for s in straits if s.began - s.lag_s >= relieved.get(s.key, s.began - s.lag_s))
    needy = sorted((s for s in current if s.pressure > Pressure.OK), key=lambda s: (-s.pressure, s.free))
    sighted = {s.key: state.sighted.get(s.key, s.began) for s in needy}
    settled = GuardState(sighted=sighted, relieved=relieved)
    helpless: list[str] = []
    for strait in needy:
        if strait.began <= sighted[strait.key] or any(r.moving and _holds(r, strait, policy) for r in residents):
            continue
        order = _order(strait, residents, policy)
        if order is not None:
            pending = Pending(order.move, order.name, strait.key, now, strait.free)
            return Decision(replace(settled, pending=pending, sighted={}), order, effect)
        if strait.pressure is Pressure.CRITICAL and strait.began - sighted[strait.key] >= policy.helpless_s:
            helpless.append(strait.key)
    return Decision(settled, effect=effect, helpless=tuple(helpless))


def _effect(
    pending: Pending | None, straits: Sequence[Strait], residents: Sequence[Resident], now: float, policy: GuardPolicy
) -> Effect | None:
    """The effect of a move that is over, by a sample that was begun after it; None: not over yet."""
    if pending is None:
        return None
    strait = next((s for s in straits if s.key == pending.pool), None)
    late = now - pending.since > policy.effect_s
    if not late and (strait is None or strait.began <= pending.since):
        return None
    if not late and any(r.moving for r in residents if r.name == pending.name):
        return None
    freed = 0 if strait is None else strait.free - pending.free
    return Effect(pending, freed, now - pending.since, late)


def _relieved(before: Mapping[str, float], effect: Effect, straits: Sequence[Strait]) -> Mapping[str, float]:
    """By the sample that showed the effect; a pool that is gone is forgotten."""
    measured = {s.key: s.began for s in straits}
    kept = {key: at for key, at in before.items() if key in measured}
    return kept | {key: began for key, began in measured.items() if key == effect.pending.pool}


def _holds(resident: Resident, strait: Strait, policy: GuardPolicy) -> bool:
    return resident.holds.get(strait.key, 0) >= policy.worth


def _order(strait: Strait, residents: Sequence[Resident], policy: GuardPolicy) -> Order | None:
    here = [r for r in residents if _holds(r, strait, policy) and not r.moving]
    why = f"{strait.label} is short of memory: {strait.free / MIB:.0f} MiB are free"
    critical = strait.pressure is Pressure.CRITICAL
    leaving = [r for r in here if r.idle and not r.pinned and (critical or not _by_design(r, strait, policy))]
    if leaving:
        gone = min(leaving, key=lambda r: (r.priority, r.last_used, r.name))
        return Order(Move.EVICT, gone.name, strait.key, why)
    if not critical or not here or strait.short <= strait.theirs > 0:
        return None
    chosen = min(here, key=lambda r: (not r.loading, r.pinned, r.priority, -r.holds[strait.key], r.last_used, r.name))
    return Order(Move.SHRINK if chosen.smaller else Move.PARK, chosen.name, strait.key, why)


def _by_design(resident: Resident, strait: Strait, policy: GuardPolicy) -> bool:
    """Whether the pool was about as full when this backend had settled there: then it is meant to be."""
    return strait.free >= resident.settled.get(strait.key, strait.free) - policy.slack
