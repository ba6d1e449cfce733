"""View: what the controller knows, as the bodies of answers."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from dspark.controller.api.answers import (
    BucketShape,
    BudgetShape,
    Changed,
    ChangeShape,
    CurvePointShape,
    Curves,
    CurveShape,
    Entry,
    FleetShape,
    LayerShape,
    PolicyState,
    PoolShape,
    ReplicaShape,
    ReplicasState,
    TableShape,
    WhyShape,
)
from dspark.controller.api.asks import PolicyShape
from dspark.controller.loop import Controller
from dspark.core.bounds import bound_table
from dspark.core.budget import ALL, DISABLED, OFF, ContextBucket
from dspark.core.changes import Change, policy_of
from dspark.core.curve import curve_problem
from dspark.core.fleet import LoadReport, Member, ReplicaState, Role
from dspark.core.ids import PoolName
from dspark.core.issue import Evidence, Issued, plan_table, rules_of
from dspark.core.policy import Policy
from dspark.core.prediction import explain


def fleet(controller: Controller, *, now_s: float, unix_s: float) -> FleetShape:
    """Return every pool."""
    members = controller.registry.members(now_s)
    return FleetShape(
        term=controller.term,
        pools=[
            pool_shape(
                controller, pool, role, [m for m in members if m.replica.pool == pool], unix_s
            )
            for pool, role in sorted(controller.registry.roles.items())
        ],
    )


def budget(controller: Controller, pool: PoolName, *, unix_s: float) -> BudgetShape:
    """Return a verifier pool's budget with its reasons."""
    plan = controller.plan
    return BudgetShape(
        pool=pool,
        policy=PolicyShape.of(policy_of(controller.policies.layers(pool, unix_s))),
        classes=[
            _why(controller, evidence, issued, canaries=tried is plan.tried)
            for tried in (plan.issued, plan.tried)
            for key, issued in tried.items()
            if key[0] == pool and (evidence := plan.evidence.get(key)) is not None
        ],
    )


def policy_state(controller: Controller, pool: PoolName, *, unix_s: float) -> PolicyState:
    """Return what is in force in a pool."""
    layers = controller.policies.layers(pool, unix_s)
    return PolicyState(
        pool=pool,
        version=controller.policies.version(pool),
        policy=PolicyShape.of(policy_of(layers)),
        layers=[
            LayerShape(
                change=layer.number,
                policy=PolicyShape.of(layer.policy),
                author=layer.author,
                reason=layer.reason,
                until_unix_s=layer.until_unix_s,
            )
            for layer in layers
        ],
    )


def change(made: Change) -> ChangeShape:
    """Return an entry of the history."""
    return ChangeShape(
        change=made.number,
        pool=made.pool,
        action=made.action.value,
        policy=PolicyShape.of(made.policy),
        author=made.author,
        reason=made.reason,
        unix_s=made.unix_s,
        ttl_s=made.ttl_s,
        undoes=made.undoes,
    )


def changed(controller: Controller, made: Change, *, dry_run: bool) -> Changed:
    """Return a change with the budgets that follow from it at once."""
    return Changed(
        dry_run=dry_run,
        change=change(made),
        tables=[
            TableShape(
                curve_version=key[1],
                table=buckets(_table_under(controller, evidence, key[1], made.policy, made.pool)),
            )
            for key, evidence in controller.plan.evidence.items()
            if key[0] == made.pool
        ],
    )


def curves(controller: Controller) -> Curves:
    """Return the curve of every class."""
    known = controller.statistics.curves(controller.registry.replicas())
    return Curves(
        curves=[
            CurveShape(
                pool=pool,
                version=version,
                device=curve.device,
                problem=curve_problem(curve),
                points=[
                    CurvePointShape(
                        context_tokens=point.context_tokens,
                        sessions=point.sessions,
                        batch_tokens=point.batch_tokens,
                        step_ms=1000 * point.step_s,
                    )
                    for point in curve.points
                ],
            )
            for (pool, version), curve in sorted(known.items())
        ]
    )


def buckets(table: Sequence[ContextBucket]) -> list[BucketShape]:
    """Return a table for people."""
    return [
        BucketShape(
            max_context_tokens=bucket.max_context_tokens,
            draft_tokens=[entry_shape(entry) for entry in bucket.draft_tokens],
        )
        for bucket in table
    ]


def entry_shape(entry: int) -> Entry:
    """Return an entry for people."""
    return "all" if entry == ALL else "off" if entry in {OFF, DISABLED} else entry


def pool_shape(
    controller: Controller, pool: PoolName, role: Role, members: Sequence[Member], unix_s: float
) -> PoolShape:
    """Return one pool, whose members are given."""
    loads = [member.load for member in members if member.load is not None]
    rounds = sum(load.drafted_steps for load in loads)
    accepted = sum(load.accepted_draft_tokens for load in loads)
    plan = controller.plan
    issued = [one for key, one in plan.issued.items() if key[0] == pool]
    has_budget = role is Role.VERIFIER
    judged = controller.statistics.judged_by_position(pool)
    return PoolShape(
        name=pool,
        role=role.value,
        wanted_replicas=plan.sizes[pool].wanted if pool in plan.sizes else 0,
        wanted_because=plan.sizes[pool].why if pool in plan.sizes else "",
        ready_replicas=sum(m.replica.state is ReplicaState.READY for m in members),
        conditions=list(plan.conditions.get(pool, ())),
        tokens_per_s=sum(_rate(load) for load in loads),
        accepted_length=1 + accepted / rounds if rounds else None,
        verified_tokens_per_step=_verified(loads),
        survival=controller.statistics.survival_by_position(pool),
        acceptance=[share for share, _ in judged],
        confidence=[stated for _, stated in judged],
        busy_share=fmean(load.busy_share for load in loads) if loads else None,
        policy=(
            PolicyShape.of(policy_of(controller.policies.layers(pool, unix_s)))
            if has_budget
            else None
        ),
        version=controller.policies.version(pool),
        budget="; ".join(dict.fromkeys(one.budget.reason for one in issued)) or None,
        drafting=_drafting(issued),
        replicas=[_replica(member) for member in members],
    )


def replicas(controller: Controller, pool: PoolShape) -> ReplicasState:
    """Return how many replicas a pool is to have, and who asked."""
    wish = controller.wishes.of(PoolName(pool.name))
    return ReplicasState(
        pool=pool.name,
        wanted=pool.wanted_replicas,
        why=pool.wanted_because,
        ready=pool.ready_replicas,
        asked=None if wish is None else wish.replicas,
        author=None if wish is None else wish.author,
        reason=None if wish is None else wish.reason,
    )


def _replica(member: Member) -> ReplicaShape:
    replica, load = member.replica, member.load
    return ReplicaShape(
        name=replica.name,
        node=replica.node,
        address=replica.address,
        state=replica.state.value,
        curve_version=None if replica.curve is None else replica.curve.version,
        seconds_since_report=member.seconds_since_report,
        active_sessions=0 if load is None else load.active_sessions,
        waiting_sessions=0 if load is None else load.waiting_sessions,
        free_pages=0 if load is None else load.free_pages,
        total_pages=0 if load is None else load.total_pages,
        busy_share=0.0 if load is None else load.busy_share,
        tokens_per_s=0.0 if load is None else _rate(load),
        verified_tokens_per_step=None if load is None else _verified([load]),
        budget_epoch=None if load is None else load.budget_epoch,
        connected_drafters=None if load is None else load.connected_drafters,
    )


def _drafting(issued: Sequence[Issued]) -> bool | None:
    entries = [
        entry for one in issued for bucket in one.budget.buckets for entry in bucket.draft_tokens
    ]
    return any(entry not in {OFF, DISABLED} for entry in entries) if entries else None


def _rate(load: LoadReport) -> float:
    return load.committed_tokens / load.window_s if load.window_s > 0 else 0.0


def _verified(loads: Iterable[LoadReport]) -> float | None:
    """Draft tokens verified in a step; None where no step was run."""
    pairs = [(load.verified_draft_tokens, load.steps) for load in loads]
    steps = sum(count for _, count in pairs)
    return sum(tokens for tokens, _ in pairs) / steps if steps else None


def _why(controller: Controller, evidence: Evidence, issued: Issued, *, canaries: bool) -> WhyShape:
    names = [member.replica.name for member in evidence.members] if canaries else []
    why = explain(evidence, issued, controller.plan_settings)
    budget, acceptance = issued.budget, evidence.acceptance
    return WhyShape(
        curve_version=budget.curve_version,
        device="" if evidence.curve is None else evidence.curve.device,
        sent=not issued.policy.shadow,
        canaries=sorted(controller.plan.canaries.intersection(names)),
        term=budget.term,
        epoch=budget.epoch,
        table=buckets(budget.buckets),
        planned=buckets(issued.planned),
        reason=budget.reason,
        sessions=why.sessions,
        context_tokens=why.context_tokens,
        cohorts=why.cohorts,
        entry=entry_shape(why.entry),
        planned_entry=entry_shape(why.planned),
        binding=why.binding,
        committed_rounds=0 if acceptance is None else acceptance.num_vectors,
        draft_round_ms=1000 * evidence.draft_cost().observed_round_s,
        theta=list(why.theta),
        off_tokens_per_s=why.off_tokens_per_s,
    )


def _table_under(
    controller: Controller, evidence: Evidence, version: str, policy: Policy, pool: PoolName
) -> tuple[ContextBucket, ...]:
    """Return the table that the next tick would send."""
    before, settings = controller.plan.issued.get((pool, version)), controller.plan_settings
    if before is not None and rules_of(settings, before.policy) == rules_of(settings, policy):
        return bound_table(before.planned, policy)
    planned, _ = plan_table(evidence, settings, policy)
    return bound_table(planned, policy)
