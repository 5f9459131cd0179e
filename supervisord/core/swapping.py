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


def goes_at(victim: Tenant, newcomer: Tenant, latest: float, policy: PlacementPolicy) -> float:
    """When `victim` may be asked to go for `newcomer`, which has to be let in at `latest`.

    An idle one goes after a moment in which its clients might come back; one with work when the newcomer cannot wait
    any longer, and not before it has had its residence. For a newcomer that an operator insists on: at once.
    """
    if victim.idle:
        linger = min(policy.linger_s, policy.linger_share * (victim.load_s + newcomer.load_s))
        return min(victim.idle_since + linger, latest)
    if newcomer.insisted:
        return latest
    return max(victim.ready_since + victim.min_residence_s, latest)
