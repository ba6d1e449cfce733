"""Wanted: how many replicas each pool is to have: as somebody asked, as its load needs, or as ever.

What a person asks for wins; a pool with a ``Scaling`` follows its load; any other one wants the
most replicas that were ready together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dspark.core.drafter_need import drafters_needed
from dspark.core.fleet import Member, ReplicaState, Role
from dspark.core.ids import PoolName
from dspark.core.issue import BudgetKey, Evidence, Issued
from dspark.core.need import Need, Scaling, prefills_needed, verifiers_needed
from dspark.core.policy import PlanSettings, Policy
from dspark.core.scaling import Scaled, scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked of the pools' sizes.

    Attributes:
        wishes: Replicas that somebody asked for, by pool; 0 is a wish.
        scaling: How pools scale that nobody asked anything of.
        start: Their replicas as long as nothing is known of their load.
        left: Replicas that left in good order since the previous plan, by pool.
        settling: Whether replicas are still coming back from before a restart: nothing is given up.
    """

    wishes: Mapping[PoolName, int] = field(default_factory=dict)
    scaling: Mapping[PoolName, Scaling] = field(default_factory=dict)
    start: Mapping[PoolName, int] = field(default_factory=dict)
    left: Mapping[PoolName, int] = field(default_factory=dict)
    settling: bool = False


def wanted_replicas(
    asked: Asked,
    roles: Mapping[PoolName, Role],
    members: Mapping[PoolName, Sequence[Member]],
    classes: Mapping[BudgetKey, tuple[Evidence, Issued]],
    *,
    policies: Mapping[PoolName, Policy],
    previous: Mapping[PoolName, Scaled],
    settings: PlanSettings,
    now_s: float,
) -> dict[PoolName, Scaled]:
    """Return every pool's wanted replicas, each with why.

    Args:
        asked: By people and by the configuration.
        roles: Of the pools.
        members: By pool.
        classes: Every kind of verifier with its budget.
        policies: In force, by verifier pool.
        previous: As wanted before.
        settings: How the planner is set.
        now_s: A monotonic clock.
    """
    found = {}
    for pool, mine in members.items():
        ready, before = num_ready(mine), previous.get(pool)
        if pool in asked.wishes:
            found[pool] = Scaled(wanted=asked.wishes[pool], why="as asked")
            continue
        scaling = asked.scaling.get(pool)
        if scaling is None:
            # Not the present count: a crashed replica would lower it, and whoever follows it
            # would never replace the replica.  One that leaves in good order does lower it.
            most = max(ready, (before.wanted if before else 0) - asked.left.get(pool, 0))
            found[pool] = Scaled(wanted=most, why="the most that were ready together")
            continue
        if before is None or asked.settling:
            most = max(ready, asked.start.get(pool, 0), before.wanted if before else 0)
            before = Scaled(wanted=most, rate=before.rate if before else 0.0)
        need = None
        if not asked.settling:
            need = _need(
                pool, roles, members, classes, scaling, settings,
                policy=policies.get(pool), known_rate=before.rate,
            )  # fmt: skip
        found[pool] = scale(before, need, scaling, now_s=now_s)
    return found


def num_ready(members: Sequence[Member]) -> int:
    """Return how many take new work."""
    return sum(member.replica.state is ReplicaState.READY for member in members)


def _need(
    pool: PoolName,
    roles: Mapping[PoolName, Role],
    members: Mapping[PoolName, Sequence[Member]],
    classes: Mapping[BudgetKey, tuple[Evidence, Issued]],
    scaling: Scaling,
    settings: PlanSettings,
    *,
    policy: Policy | None,
    known_rate: float,
) -> Need | None:
    role, mine = roles.get(pool), members[pool]
    if role is Role.PREFILL:
        return prefills_needed(mine, scaling, known_rate=known_rate)
    if role is Role.VERIFIER:
        own = {key: found for key, found in classes.items() if key[0] == pool}
        promised = None if policy is None else policy.min_tokens_per_s
        return verifiers_needed(own, mine, scaling, settings, promised=promised)
    if role is not Role.DRAFTER:
        return None
    need = drafters_needed(classes, mine, scaling, settings)
    others = sum(
        num_ready(theirs)
        for name, theirs in members.items()
        if name != pool and roles.get(name) is Role.DRAFTER
    )
    if need is None or not others:
        return need
    return Need(
        fewest=max(need.fewest - others, 0),
        safe=max(need.safe - others, 0),
        why=f"{need.why}; {others} are in other pools",
    )
