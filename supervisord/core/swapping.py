"""When models change places: how long those in line may be kept waiting, and how long those there may stay."""

from collections.abc import Sequence

from supervisord.core.tenancy import PlacementPolicy, Tenant


def latest_start(line: Sequence[Tenant], places: int) -> float:
    """When the first in `line` has to be let in so that everybody in it still starts within its max_wait.

    Starts on a pool follow one another, so each waits for the loads of those before it. `places` is how many live in
    the pools that are contended: as long as there is one who was there before, the next newcomer takes that one's
    place; from then on it waits until a newcomer before it has had its residence. -inf: at once; inf: no hurry.
    """
    latest = float("inf")
    before = 0.0
    for position, tenant in enumerate(line):
        if position >= places:
            before += line[position - places].min_residence_s
        latest = min(latest, tenant.deadline - before)
        before += tenant.load_s
    return latest


def goes_at(
    victim: Tenant, newcomer: Tenant, working: Sequence[Tenant], latest: float, policy: PlacementPolicy
) -> float:
    """When `victim` may be asked to go for `newcomer`, which has to be let in at `latest`.

    One with work goes when the newcomer cannot wait any longer, and not before it has had its residence; for a
    newcomer that an operator insists on, at once. An idle one goes after a moment in which its clients might come
    back. After a change of places that moment lasts until those that are `working` beside it have done what waited
    for them, or had their residence, yet no longer than the next change would take: whoever they answer is likely
    to ask the idle one next. (With eight clients on four models of which two fit, that saves a third of all loads.)
    """
    if not victim.idle:
        return latest if newcomer.insisted else max(victim.ready_since + victim.min_residence_s, latest)
    cost = victim.load_s + newcomer.load_s
    settled = [t.ready_since + min(t.min_residence_s, cost) for t in working]
    return min(max([victim.idle_since + min(policy.linger_s, policy.linger_share * cost), *settled]), latest)
