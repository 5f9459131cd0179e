"""The pools of memory as `supctl status` shows them: who holds what, who is to come, and what nobody can explain."""

from collections.abc import Iterator, Mapping

from supervisord.core.footprint import Source
from supervisord.core.placement import HOST, Pool, Standing, Tenant
from supervisord.engine.supervisor import Supervisor

View = Mapping[str, object]


def pools(supervisor: Supervisor) -> list[View]:
    """One entry for the host and one for each GPU, as of the latest plan."""
    tenants = supervisor.placer.tenants()
    return [_pool(supervisor, pool, tenants) for pool in supervisor.placer.pools.values()]


def _pool(supervisor: Supervisor, pool: Pool, tenants: list[Tenant]) -> View:
    return {
        "key": pool.key,
        "label": pool.label,
        "total_bytes": pool.total,
        "free_bytes": pool.free,
        "reserve_bytes": pool.reserve,
        "pressure": supervisor.sampler.level(pool.key).label,
        "problem": pool.problem,
        "holders": [_holder(supervisor, tenant, pool.key) for tenant in _concerned(tenants, pool.key)],
        "foreign": [{"pid": each.pid, "name": each.name, "used_bytes": each.used} for each in pool.foreign],
        "unexplained_bytes": pool.unexplained,
    }


def _concerned(tenants: list[Tenant], pool: str) -> Iterator[Tenant]:
    """Those that hold something there, or are about to."""
    for tenant in tenants:
        comes = tenant.standing is not Standing.AWAY and pool in tenant.expects
        if comes or tenant.holds.get(pool):
            yield tenant


def _holder(supervisor: Supervisor, tenant: Tenant, pool: str) -> View:
    return {
        "backend": tenant.name,
        "standing": tenant.standing.value,
        "held_bytes": tenant.holds.get(pool, 0),
        "expected_bytes": tenant.expects.get(pool),
        "source": _source(supervisor, tenant, pool).value,
    }


def _source(supervisor: Supervisor, tenant: Tenant, pool: str) -> Source:
    if pool not in tenant.expects:
        return Source.UNKNOWN
    need = supervisor.placer.need_of(tenant.name)
    return need.ram_source if pool == HOST else need.vram_source
