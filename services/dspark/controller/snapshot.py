"""Snapshot: the fleet and its plan as every watcher sees them."""

from collections import Counter
from collections.abc import Mapping

from dspark.core.fleet import Fleet, Member, Pool, ReplicaState, Role
from dspark.core.ids import PoolName, Term
from dspark.core.plan import Plan
from dspark.telemetry import metrics


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
    wanted = plan.sizes
    pools = tuple(
        Pool(
            name=name,
            role=role,
            wanted_replicas=wanted[name].wanted if name in wanted else 0,
            wanted_because=wanted[name].why if name in wanted else "",
            ready_replicas=ready[name],
            budget=next(iter(plan.budgets(name)), None),
            conditions=plan.conditions.get(name, ()),
        )
        for name, role in sorted(roles.items())
    )
    return Fleet(term=term, version=version, members=members, pools=pools)


def count_replicas(fleet: Fleet) -> None:
    """Write every pool's replicas into the metrics."""
    for pool in fleet.pools:
        draining = sum(
            member.replica.state is ReplicaState.DRAINING
            for member in fleet.members
            if member.replica.pool == pool.name
        )
        for state, count in (
            ("desired", pool.wanted_replicas),
            ("ready", pool.ready_replicas),
            ("draining", draining),
        ):
            metrics.POOL_REPLICAS.labels(pool.name, state).set(count)
