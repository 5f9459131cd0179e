"""Who may start where, and who has to leave first: plan(tenants, pools, now) -> Plan.

A pool is memory that is shared: one GPU, or the host's RAM. A backend starts when what it will take fits into what is
measured free, less the reserve and less what those already there may still grow to; one start on a pool at a time.
"""

from collections.abc import Iterable, Mapping, Sequence

from supervisord.core.eviction import choose_victims, who_is_in_the_way
from supervisord.core.ledger import Ledger
from supervisord.core.swapping import goes_at, latest_start
from supervisord.core.tenancy import (
    HOST,
    PRESENT,
    Holder,
    PlacementPolicy,
    Plan,
    Pool,
    Standing,
    Tenant,
    gib,
    listed,
)

__all__ = ["HOST", "Holder", "PlacementPolicy", "Plan", "Pool", "Standing", "Tenant", "plan"]


def plan(
    tenants: Sequence[Tenant], pools: Mapping[str, Pool], now: float, policy: PlacementPolicy | None = None
) -> Plan:
    """What to do now. Pure; asked again after everything that could change it, and at `look_again`.

    Nothing is remembered from one plan to the next: who is closed stays so because the reason for it lasts, until the
    newcomer it makes room for is gone or has its place.
    """
    return _Draft(tenants, pools, now, policy or PlacementPolicy()).plan()


class _Draft:
    """A plan in the making."""

    def __init__(
        self, tenants: Sequence[Tenant], pools: Mapping[str, Pool], now: float, policy: PlacementPolicy
    ) -> None:
        self._tenants = tenants
        self._pools = pools
        self._now = now
        self._policy = policy
        self._ledger = Ledger(tenants, pools)
        self._admit: list[str] = []
        self._leave: dict[str, str] = {}
        self._close: dict[str, str] = {}
        self._hold: dict[str, str] = {}
        self._blocked: set[str] = set()
        self._withdraw: dict[str, str] = {}
        self._never: dict[str, str] = {}
        self._earmarked: set[str] = set()  # who will leave for somebody in line, in time
        self._moments: list[float] = []

    def plan(self) -> Plan:
        self._let_expired_go()
        waiting = [t for t in self._tenants if t.standing is Standing.WAITING]
        wanted = [t for t in waiting if t.lasting or t.insisted or t.queued > 0]
        self._withdraw = {t.name: "nobody needs it any more" for t in waiting if t not in wanted}
        line = sorted(wanted, key=_order)
        for position, tenant in enumerate(line):
            self._place(tenant, line[position + 1 :])
        return Plan(
            admit=tuple(self._admit),
            leave=self._leave,
            close=self._close,
            hold=self._hold,
            blocked=frozenset(self._blocked),
            withdraw=self._withdraw,
            never=self._never,
            look_again=min((m for m in self._moments if self._now < m < float("inf")), default=None),
        )

    def _let_expired_go(self) -> None:
        for tenant in self._tenants:
            if tenant.standing is not Standing.RESIDENT or tenant.pinned or not tenant.idle or tenant.ttl_s is None:
                continue
            expires = tenant.idle_since + tenant.ttl_s
            self._moments.append(expires)
            if self._now >= expires:
                self._leave[tenant.name] = f"no work for {tenant.ttl_s:g} s"
                self._ledger.dismiss(tenant)

    # --- one of those in line ----------------------------------------------------------------------------------------

    def _place(self, tenant: Tenant, behind: Sequence[Tenant]) -> None:
        ledger = self._ledger
        if problem := self._problem(tenant):
            self._hold[tenant.name] = problem
            self._blocked.add(tenant.name)
        elif misfit := self._misfit(tenant):
            self._never[tenant.name] = misfit
        elif ledger.fits(tenant):
            self._admit_in_turn(tenant)
        elif not ledger.missing(tenant, ledger.later):
            pools = ledger.missing(tenant, ledger.now)
            self._hold[tenant.name] = f"waits for the memory of {listed(ledger.leaving_from(pools))} to be released"
            ledger.promise(tenant)
            self._claim(tenant, pools)
        elif tenant.displaces:
            self._displace(tenant, behind)
        else:
            self._stand_back(tenant, self._taken_turn(tenant))

    def _stand_back(self, tenant: Tenant, taken: str) -> None:
        """Nobody makes room for it, unless somebody who starts turns out to leave some."""
        self._hold[tenant.name] = taken or self._no_room(tenant)
        if not taken:
            self._blocked.add(tenant.name)

    def _problem(self, tenant: Tenant) -> str:
        """Why a pool it needs cannot be judged."""
        for key in sorted({*tenant.expects, *tenant.turn}):
            pool = self._pools.get(key)
            if pool is None:
                return f"{key}: there is no such memory, or it is not measured"
            if pool.problem:
                return f"{pool.label}: {pool.problem}"
        return ""

    def _misfit(self, tenant: Tenant) -> str:
        """Why it will never fit."""
        for key, size in sorted(tenant.expects.items()):
            pool = self._pools[key]
            if size > max(0, pool.total - pool.reserve):
                return (
                    f"it needs {gib(size)} on {pool.label}, which has {gib(pool.total)} "
                    f"with {gib(pool.reserve)} of it kept in reserve"
                )
        return ""

    def _admit_in_turn(self, tenant: Tenant) -> None:
        if taken := self._taken_turn(tenant):
            self._hold[tenant.name] = taken
            self._ledger.promise(tenant)
        else:
            self._admit.append(tenant.name)
            self._ledger.admit(tenant)

    def _taken_turn(self, tenant: Tenant) -> str:
        """Why it cannot start now even with room enough: one start on a pool at a time."""
        for key in sorted(tenant.turn):
            label = self._pools[key].label
            if (starting := self._ledger.turns.get(key)) is not None:
                return f"waits for {starting} to finish starting on {label}"
            if (first := self._ledger.kept_turns.get(key)) is not None:
                return f"waits for {first} to start on {label} first"
        return ""

    # --- making room -------------------------------------------------------------------------------------------------

    def _displace(self, newcomer: Tenant, behind: Sequence[Tenant]) -> None:
        missing = self._ledger.missing(newcomer, self._ledger.later)
        rivals = {self._ledger.claims[key]: key for key in missing if key in self._ledger.claims}
        if rivals:
            first, key = next(iter(rivals.items()))
            self._hold[newcomer.name] = f"waits for {first} to get its place on {self._pools[key].label} first"
            return
        victims = choose_victims(missing, [t for t in self._tenants if self._may_go(t)])
        taken = self._taken_turn(newcomer)
        if not victims:
            self._stand_back(newcomer, taken)
            return
        latest = self._latest_start(newcomer, behind, missing)
        working = [t for t in self._tenants if t not in victims and self._works_beside(t, missing)]
        moves_at = max(goes_at(victim, newcomer, working, latest, self._policy) for victim in victims)
        if taken:  # it could not start yet: while it need not, those there go on serving
            moves_at = max(moves_at, latest)
        self._moments += [latest, moves_at]
        if self._now >= moves_at:
            self._move_out(victims, newcomer, missing)
        else:
            self._hold[newcomer.name] = taken or self._waits_for_time(newcomer, victims, latest)
        if self._now >= min(latest, moves_at):
            self._promise(newcomer, victims, missing, overdue=self._now >= latest)
        else:
            self._earmarked |= {v.name for v in victims}

    def _may_go(self, tenant: Tenant) -> bool:
        if tenant.standing is not Standing.RESIDENT or tenant.pinned:
            return False
        return tenant.name not in self._earmarked and tenant.name not in self._ledger.leavers

    def _works_beside(self, tenant: Tenant, pools: Iterable[str]) -> bool:
        return tenant.standing is Standing.RESIDENT and not tenant.idle and any(tenant.takes(key) for key in pools)

    def _latest_start(self, newcomer: Tenant, behind: Sequence[Tenant], missing: Mapping[str, int]) -> float:
        contended = newcomer.turn | set(missing)
        rivals = [t for t in behind if t.displaces and contended & _pools_of(t) and self._lacks_room(t)]
        places = sum(
            t.standing in PRESENT and not t.pinned and any(t.takes(k) for k in contended) for t in self._tenants
        )
        return latest_start([newcomer, *rivals], max(1, places))

    def _lacks_room(self, tenant: Tenant) -> bool:
        if self._problem(tenant) or self._misfit(tenant):
            return False
        return bool(self._ledger.missing(tenant, self._ledger.now))

    def _move_out(self, victims: Sequence[Tenant], newcomer: Tenant, missing: Iterable[str]) -> None:
        place = listed(self._ledger.labels(missing))
        for victim in victims:
            if victim.in_flight == 0:
                self._leave[victim.name] = f"makes room for {newcomer.name} on {place}"
            elif (patience := self._patience(victim)) is None or self._now < patience:
                self._close[victim.name] = f"finishes what it has begun, and makes room for {newcomer.name} on {place}"
            else:
                limit = f"{self._policy.finish_s:g} s"
                self._leave[victim.name] = f"makes room for {newcomer.name} on {place}, and did not finish in {limit}"
        names = listed([v.name for v in victims])
        self._hold[newcomer.name] = f"waits for {names} to make room on {place}"

    def _patience(self, victim: Tenant) -> float | None:
        """Until when one that is closed may finish what it has begun; None: for as long as it takes."""
        if self._policy.finish_s is None:
            return None
        since = self._now if victim.closed_since is None else victim.closed_since
        self._moments.append(since + self._policy.finish_s)
        return since + self._policy.finish_s

    def _promise(self, newcomer: Tenant, victims: Sequence[Tenant], missing: Iterable[str], *, overdue: bool) -> None:
        """Nobody behind may take the room that is being made."""
        for victim in victims:
            self._ledger.dismiss(victim)
        self._ledger.promise(newcomer)
        self._claim(newcomer, missing)
        if overdue:
            self._ledger.kept_turns |= dict.fromkeys(newcomer.turn, newcomer.name)

    def _claim(self, newcomer: Tenant, pools: Iterable[str]) -> None:
        self._ledger.claims |= dict.fromkeys(pools, newcomer.name)

    # --- texts -------------------------------------------------------------------------------------------------------

    def _waits_for_time(self, newcomer: Tenant, victims: Sequence[Tenant], latest: float) -> str:
        working = listed([v.name for v in victims if not v.idle])
        if not working:
            return f"waits a moment in case there is new work for {listed([v.name for v in victims])}"
        if self._now >= latest:
            residence = max(v.min_residence_s for v in victims)
            return f"waits for {working} to finish its work, or to have served for {residence:g} s"
        if newcomer.due is None:
            return f"waits for {working} to finish its work"
        return (
            f"waits for {working} to finish its work, until the oldest job has waited for {latest - newcomer.due:.0f} s"
        )

    def _no_room(self, tenant: Tenant) -> str:
        ledger = self._ledger
        room = {key: min(ledger.now[key], ledger.later[key]) for key in self._pools}
        told = []
        for key in ledger.missing(tenant, room):
            pool = self._pools[key]
            reasons = "; ".join(who_is_in_the_way(pool, self._tenants))
            told.append(_shortage(pool, tenant.expects.get(key, 0), max(0, room[key])) + (reasons and f" ({reasons})"))
        return f"waits for room: {', '.join(told)}"


def _shortage(pool: Pool, needed: int, room: int) -> str:
    there = f"{gib(pool.free)} free, and {gib(pool.reserve)} stay free"
    if not needed:
        return f"{pool.label} is below its reserve: {there}"
    return f"it needs {gib(needed)} on {pool.label} and {gib(room)} are free for it: {there}"


def _order(tenant: Tenant) -> tuple[bool, bool, bool, float, float]:
    """Those with jobs or asked for by an operator, then those that only help out, then those that nobody needs now."""
    if not (tenant.queued > 0 or tenant.insisted):
        return True, False, False, -tenant.priority, 0.0
    due = float("inf") if tenant.due is None else tenant.due
    return False, not tenant.insisted, tenant.modest, tenant.standing_in_line, due


def _pools_of(tenant: Tenant) -> frozenset[str]:
    return tenant.turn | {key for key, size in tenant.expects.items() if size > 0}
