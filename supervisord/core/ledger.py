"""The room in each pool while one plan is being made: what is there now, what there will be, who has a claim to it."""

from collections.abc import Iterable, Mapping, Sequence

from supervisord.core.tenancy import PRESENT, Pool, Standing, Tenant


class Ledger:
    """Bytes by pool.

    `now` is what may be taken at once: measured free, less the reserve, less what those there may still grow to, less
    what this plan has given out. `later` is the same once everybody who leaves has left, less what was promised.
    """

    def __init__(self, tenants: Sequence[Tenant], pools: Mapping[str, Pool]) -> None:
        self.pools = pools
        present = [t for t in tenants if t.standing in PRESENT]
        self._growth = {key: sum(t.grows(key) for t in present) for key in pools}
        self.now = {key: pool.free - pool.reserve - self._growth[key] for key, pool in pools.items()}
        self.later = dict(self.now)
        self.turns = {key: t.name for t in tenants if t.standing is Standing.STARTING for key in t.turn}
        self.leavers: dict[str, Tenant] = {}
        self.claims: dict[str, str] = {}  # pool -> for whom it is being cleared
        self.kept_turns: dict[str, str] = {}  # pool -> whose start on it comes next, whoever else would fit
        for tenant in tenants:
            if tenant.standing is Standing.LEAVING:
                self.dismiss(tenant)

    def need(self, tenant: Tenant) -> dict[str, int]:
        """What has to be there for it to start.

        Where nothing is known of what it takes, the pool has only to be above its reserve: what others may still grow
        to does not count.
        """
        needs = {key: tenant.expects[key] for key in sorted(tenant.expects) if tenant.expects[key] > 0}
        return needs | {key: -self._growth[key] for key in sorted(tenant.turn) if key not in needs}

    def missing(self, tenant: Tenant, room: Mapping[str, int]) -> dict[str, int]:
        """By how many bytes each pool is too small for it; empty: it fits."""
        return {key: size - room[key] for key, size in self.need(tenant).items() if size > room[key]}

    def fits(self, tenant: Tenant) -> bool:
        """At once, and leaving enough for whom room was promised."""
        return not self.missing(tenant, self.now) and not self.missing(tenant, self.later)

    def admit(self, tenant: Tenant) -> None:
        for key, size in tenant.expects.items():
            self.now[key] -= size
        self.promise(tenant)
        self.turns |= dict.fromkeys(tenant.turn, tenant.name)

    def promise(self, tenant: Tenant) -> None:
        """Nobody after it in line may take what it needs."""
        for key, size in tenant.expects.items():
            self.later[key] -= size

    def dismiss(self, tenant: Tenant) -> None:
        """One that leaves: what it holds will be free, and what it was still to grow to."""
        self.leavers[tenant.name] = tenant
        for key in self.pools:
            self.later[key] += tenant.takes(key)

    def leaving_from(self, pools: Iterable[str]) -> list[str]:
        """Whose memory in one of these pools is going to be free."""
        keys = tuple(pools)
        return [name for name, t in self.leavers.items() if any(t.takes(key) for key in keys)]

    def labels(self, pools: Iterable[str]) -> list[str]:
        return [self.pools[key].label for key in sorted(pools)]
