"""Who has to leave for a newcomer: the least harm first, and no more than necessary; and why there is no room."""

from collections.abc import Iterable, Mapping, Sequence

from supervisord.core.tenancy import Pool, Standing, Tenant, gib

NAMED_HOLDERS = 3  # of foreign processes in one text: the largest of them explain it


def choose_victims(missing: Mapping[str, int], candidates: Iterable[Tenant]) -> tuple[Tenant, ...]:
    """Those whose leaving makes up for the bytes that are `missing` by pool; empty when not even all of them would do.

    Taken in order of harm until they are enough; then those are let off, the worst harm first, that turned out
    unnecessary.
    """
    chosen: list[Tenant] = []
    for candidate in sorted((c for c in candidates if any(c.takes(key) for key in missing)), key=_harm):
        if not _enough(missing, chosen):
            chosen.append(candidate)
    if not _enough(missing, chosen):
        return ()
    for victim in reversed(tuple(chosen)):
        rest = [c for c in chosen if c is not victim]
        if _enough(missing, rest):
            chosen = rest
    return tuple(chosen)


def _harm(victim: Tenant) -> tuple[bool, int, float, float, str]:
    # Among those with work, who has been there longest: when it was last used changes with each request, and with it
    # the choice would, from one plan to the next.
    since = victim.idle_since if victim.idle else victim.ready_since
    return not victim.idle, victim.priority, since, victim.load_s, victim.name


def _enough(missing: Mapping[str, int], victims: Sequence[Tenant]) -> bool:
    return all(sum(v.takes(key) for v in victims) >= size for key, size in missing.items())


def who_is_in_the_way(pool: Pool, tenants: Sequence[Tenant]) -> list[str]:
    """What holds a pool's memory and cannot be asked to leave, for people."""
    told = [f"{t.name} is pinned ({gib(t.takes(pool.key))})" for t in tenants if t.pinned and _there(t, pool.key)]
    told += [
        f"{t.name} is starting ({gib(t.takes(pool.key))})"
        for t in tenants
        if t.standing is Standing.STARTING and not t.pinned and _there(t, pool.key)
    ]
    holders = sorted(pool.foreign, key=lambda h: -(h.used or 0))
    told += [f"pid {h.pid} ({h.name}) holds {_size(h.used)}" for h in holders[:NAMED_HOLDERS]]
    if len(holders) > NAMED_HOLDERS:
        told.append(f"{len(holders) - NAMED_HOLDERS} more processes hold some")
    if pool.unexplained > 0:
        told.append(f"{gib(pool.unexplained)} are held by no process that can be seen; not released yet?")
    return told


def _there(tenant: Tenant, pool: str) -> bool:
    return tenant.standing in {Standing.STARTING, Standing.RESIDENT} and tenant.takes(pool) > 0


def _size(used: int | None) -> str:
    return "an unknown share" if used is None else gib(used)
