"""Snapshot: the fleet and its plan as every watcher sees them."""

from collections import Counter
from collections.abc import Mapping

from dspark.core.fleet import Fleet, Member, Pool, ReplicaState, Role
from dspark.core.ids import PoolName, Term
from dspark.core.plan import Plan


def snapshot(
    plan: Plan,
    members: tuple[Member, ...],
    roles: Mapping[PoolName, Role],
    *,
    term: Term,
    version: int,
) -> Fleet:
    """Put members and pools together; a pool with several classes shows one of its budgets."""
    ready = Counter(
        member.replica.pool for member in members if member.replica.state is ReplicaState.READY
    )
    pools = tuple(
        Pool(
            name=name,
            role=role,
            wanted_replicas=plan.wanted.get(name, 0),
            ready_replicas=ready[name],
            budget=next(iter(plan.budgets(name)), None),
            conditions=plan.conditions.get(name, ()),
        )
        for name, role in sorted(roles.items())
    )
    return Fleet(term=term, version=version, members=members, pools=pools)
