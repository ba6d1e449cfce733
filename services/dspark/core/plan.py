"""Plan: from the fleet as observed to what every pool is told.

One budget for each class of verifiers, that is for each (pool, curve version): replicas of one
pool on unlike devices get tables of their own.  Between changes budgets are renewed, so that they
do not expire.  What the planner cannot trust shows as a condition: never a silent guess.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dspark.core.budget import Budget
from dspark.core.canary import choose_canaries
from dspark.core.curve import Curve, curve_problem
from dspark.core.fleet import Member, Role
from dspark.core.ids import Epoch, PoolName, ReplicaName, Term
from dspark.core.issue import BudgetKey, Evidence, Issued, issue
from dspark.core.policy import DEFAULT_POLICY, PlanSettings, Policy
from dspark.core.reservoir import Acceptance
from dspark.core.scaling import Scaled
from dspark.core.wanted import Asked, num_ready, wanted_replicas

_NO_EPOCH = Epoch(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What there is to plan for.

    Attributes:
        term: Of the controller that plans.
        members: The fleet.
        roles: Every pool that is known, also those with no replica now.
        asked: Of the pools' sizes.
        remarks: Conditions found elsewhere (a refused replica, say), by pool.
        policies: In force, by pool; absent: the default.
        canaries: What a share of a pool's replicas tries out, by pool.
        resumed: The last tables of classes that the previous plan does not know.
    """

    term: Term
    members: Sequence[Member]
    roles: Mapping[PoolName, Role]
    asked: Asked = field(default_factory=Asked)
    remarks: Mapping[PoolName, Sequence[str]] = field(default_factory=dict)
    policies: Mapping[PoolName, Policy] = field(default_factory=dict)
    canaries: Mapping[PoolName, Policy] = field(default_factory=dict)
    resumed: Mapping[BudgetKey, Issued] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every pool is told.

    Attributes:
        issued: A budget for each class of verifiers.
        sizes: Replicas wanted in each known pool, and why.
        conditions: What holds a pool back, as "Reason: message".
        reasons: What changed since the previous plan, a pool and one sentence each.
        epoch: The newest epoch in use.
        evidence: What each budget was computed from.
        canaries: Replicas that try a policy out.
        tried: The budget of the canaries in each class that has any.
    """

    issued: Mapping[BudgetKey, Issued] = field(default_factory=dict)
    sizes: Mapping[PoolName, Scaled] = field(default_factory=dict)
    conditions: Mapping[PoolName, tuple[str, ...]] = field(default_factory=dict)
    reasons: tuple[tuple[PoolName, str], ...] = ()
    epoch: Epoch = _NO_EPOCH
    evidence: Mapping[BudgetKey, Evidence] = field(default_factory=dict)
    canaries: frozenset[ReplicaName] = frozenset()
    tried: Mapping[BudgetKey, Issued] = field(default_factory=dict)

    @property
    def wanted(self) -> Mapping[PoolName, int]:
        """Replicas wanted in each known pool."""
        return {pool: size.wanted for pool, size in self.sizes.items()}

    def budget(
        self, pool: PoolName, curve_version: str, replica: ReplicaName | None = None
    ) -> Budget | None:
        """Return the budget of one class, or of a replica of it, if it is sent."""
        key = (pool, curve_version)
        found = (self.tried if replica in self.canaries else self.issued).get(key)
        return None if found is None or found.policy.shadow else found.budget

    def budgets(self, pool: PoolName) -> tuple[Budget, ...]:
        """Return the budgets of a pool that are sent, one for each class."""
        return tuple(
            found.budget
            for key, found in self.issued.items()
            if key[0] == pool and not found.policy.shadow
        )


def plan(
    observation: Observation,
    *,
    curves: Mapping[BudgetKey, Curve],
    acceptance: Mapping[PoolName, Acceptance],
    previous: Plan,
    settings: PlanSettings,
    now_s: float,
) -> Plan:
    """Decide budgets, wanted replicas and conditions.

    Args:
        observation: The fleet and what was asked of it.
        curves: One for each class of verifiers or drafters that has any, or had.
        acceptance: Committed survivals of each verifier pool.
        previous: The plan in force.
        settings: How to plan.
        now_s: A monotonic clock.
    """
    by_pool: dict[PoolName, list[Member]] = {pool: [] for pool in observation.roles}
    for member in observation.members:
        by_pool.setdefault(member.replica.pool, []).append(member)
    drafters = [member for member in observation.members if member.replica.role is Role.DRAFTER]
    drafter_curve = _drafter_curve(drafters, curves, observation.roles)
    issued: dict[BudgetKey, Issued] = {}
    known: dict[BudgetKey, Evidence] = {}
    tried: dict[BudgetKey, Issued] = {}
    canaries: set[ReplicaName] = set()
    conditions: dict[PoolName, list[str]] = {}
    reasons: list[tuple[PoolName, str]] = []
    epoch = previous.epoch
    for pool, members in sorted(by_pool.items()):
        conditions[pool] = [*observation.remarks.get(pool, ())]
        if observation.roles.get(pool) is not Role.VERIFIER:
            continue
        conditions[pool] += _drafting_conditions(members, drafters)
        stopped = _stopped(members)
        if stopped is not None:
            conditions[pool].append(f"GuardTripped: speculation is off: {stopped}")
        policy = observation.policies.get(pool, DEFAULT_POLICY)
        canary = observation.canaries.get(pool)
        if canary is not None:
            chosen = choose_canaries(members, canary.canary_share or 0.0)
            canaries |= chosen
            if not chosen:
                conditions[pool].append("CanaryWaits: it needs two replicas that are ready")
        if _missed(members, policy.min_tokens_per_s):
            conditions[pool].append(
                f"PromiseMissed: sessions get less than {policy.min_tokens_per_s:g} tokens/s"
            )
        for version, cohort in _classes(members).items():
            key = (pool, version)
            evidence = Evidence(
                curve=curves.get(key),
                members=cohort,
                acceptance=acceptance.get(pool),
                drafter_curve=drafter_curve,
                stopped=stopped,
            )
            known[key] = evidence
            problem = evidence.curve_problem()
            if problem is not None and num_ready(cohort):
                conditions[pool].append(f"CurveUnusable: {problem}; every draft is verified")
            before = previous.issued.get(key, observation.resumed.get(key))
            issued[key] = issue(
                key, evidence, before, settings,
                term=observation.term, epoch=Epoch(epoch + 1), now_s=now_s,
                policy=policy,
            )  # fmt: skip
            pairs = [(before, issued[key])]
            if canary is not None and any(one.replica.name in canaries for one in cohort):
                first = max(epoch, issued[key].budget.epoch)
                tried[key] = issue(
                    key, evidence, previous.tried.get(key), settings,
                    term=observation.term, epoch=Epoch(first + 1), now_s=now_s, policy=canary,
                )  # fmt: skip
                pairs.append((previous.tried.get(key), tried[key]))
            for old, new in pairs:
                if new.budget.epoch > epoch:
                    epoch = new.budget.epoch
                    if old is None or old.budget.buckets != new.budget.buckets:
                        reasons.append((pool, f"epoch {epoch}: {new.budget.reason}"))
    sizes = wanted_replicas(
        observation.asked,
        observation.roles,
        by_pool,
        {key: (known[key], issued[key]) for key in issued},
        policies=observation.policies,
        previous=previous.sizes,
        settings=settings,
        now_s=now_s,
    )
    return Plan(
        issued=issued,
        sizes=sizes,
        conditions={
            pool: (*_replica_conditions(num_ready(by_pool[pool]), sizes[pool].wanted), *texts)
            for pool, texts in conditions.items()
        },
        reasons=tuple(reasons),
        epoch=epoch,
        evidence=known,
        canaries=frozenset(canaries),
        tried=tried,
    )


def _replica_conditions(ready: int, wanted: int) -> list[str]:
    if ready < wanted:
        return [f"ReplicasMissing: {ready} of {wanted} are ready"]
    return []


def _drafting_conditions(members: Sequence[Member], drafters: Sequence[Member]) -> list[str]:
    if not any(member.replica.compatibility.projection_id for member in members):
        return []  # none is configured
    if num_ready(members) and not num_ready(drafters):
        return ["NoDrafterReady: sessions decode plainly"]
    return []


def _stopped(members: Sequence[Member]) -> str | None:
    """Say which replicas' guards found output that is not the target's, or return None."""
    names = [member.replica.name for member in members if member.load and member.load.guard_tripped]
    if not names:
        return None
    return f"the output of {', '.join(sorted(names))} is not the target's (restart to clear this)"


def _missed(members: Sequence[Member], promised: float | None) -> bool:
    """Whether sessions commit fewer tokens a second than they were promised."""
    loads = [member.load for member in members if member.load and member.load.active_sessions]
    seconds = sum(load.window_s * load.active_sessions for load in loads)
    if promised is None or seconds <= 0:
        return False
    return sum(load.committed_tokens for load in loads) < promised * seconds


def _classes(members: Sequence[Member]) -> dict[str, list[Member]]:
    classes: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        curve = member.replica.curve
        classes["" if curve is None else curve.version].append(member)
    return dict(sorted(classes.items()))


def _drafter_curve(
    drafters: Sequence[Member],
    curves: Mapping[BudgetKey, Curve],
    roles: Mapping[PoolName, Role],
) -> Curve | None:
    """Return the curve of the first drafter that has a usable one, or of one that is gone."""
    present = [
        curves.get((member.replica.pool, own.version), own)
        for member in drafters
        if (own := member.replica.curve) is not None
    ]
    gone = [curve for (pool, _), curve in curves.items() if roles.get(pool) is Role.DRAFTER]
    usable = (curve for curve in (*present, *gone) if curve_problem(curve) is None)
    return next(usable, None)
