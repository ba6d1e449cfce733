"""Issue: one class of verifiers gets its budget: a new one, the old one renewed, or the old one.

A table is reconsidered once in a dwell time and changed only where the change pays.  Where there
is no trustworthy curve it trims nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from dspark.core.bounds import bound_table
from dspark.core.budget import Budget, ContextBucket, disabled, verify_all
from dspark.core.curve import Curve, curve_problem, step_seconds
from dspark.core.fleet import Member
from dspark.core.ids import Epoch, PoolName, Term
from dspark.core.policy import DEFAULT_POLICY, Mode, PlanSettings, Policy, Rules
from dspark.core.refinement import refine
from dspark.core.reservoir import Acceptance
from dspark.core.table import describe, make_table
from dspark.core.theta import DraftCost

BudgetKey = tuple[PoolName, str]
"""A class of verifiers: (pool, curve version); "" for replicas without a curve."""

MISMATCH_RATIO = 4.0
"""Steps this many times dearer or cheaper than the curve says make the curve a mismatch."""

_MIN_STEPS = 20  # before a curve is judged by the steps of one window
_REFINED_BY = 5  # replicas whose live steps refine a class's curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A budget with the times that bound its changes.

    Attributes:
        budget: As it is sent: the plan under the policy.
        planned: The table before the policy: the next plan is compared with this one.
        planned_reason: Why it is so.
        policy: In force.
        considered_s: When the plan was last thought about.
        renewed_s: When the budget was last sent.
    """

    budget: Budget
    planned: tuple[ContextBucket, ...]
    planned_reason: str
    policy: Policy
    considered_s: float
    renewed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one class's budget is computed from.

    Attributes:
        curve: The class's curve, if it has one.
        members: Its replicas.
        acceptance: Committed survivals of its pool.
        drafter_curve: The drafters' curve, if they have one.
        stopped: Why speculation is switched off in its pool; None: it is not.
    """

    curve: Curve | None
    members: Sequence[Member]
    acceptance: Acceptance | None
    drafter_curve: Curve | None = None
    stopped: str | None = None

    def curve_problem(self) -> str | None:
        """Say why the curve cannot be trusted, or return None."""
        problem = curve_problem(self.curve)
        if problem is not None or self.curve is None:
            return problem
        ratios = [
            ratio
            for member in self.members
            if (ratio := _step_ratio(self.curve, member)) is not None
        ]
        # Most of them, so that one slow machine does not condemn the class.
        ratio = median(ratios) if ratios else 1.0
        if not 1.0 / MISMATCH_RATIO <= ratio <= MISMATCH_RATIO:
            return f"mismatched: steps take {ratio:.2g} times what it says"
        return None

    def refined_curve(self) -> Curve:
        """Return the curve as live steps of the class's replicas correct it."""
        assert self.curve is not None
        seen = [member.load.step_cells for member in self.members if member.load is not None]
        cells = [cells for cells in seen if cells][:_REFINED_BY]
        return refine(self.curve, [cell for mine in cells for cell in mine])

    def draft_cost(self) -> DraftCost:
        """Return what drafting costs, as the class's replicas saw it."""
        rounds = [
            member.load
            for member in self.members
            if member.load is not None and member.load.draft_round_s > 0
        ]
        if not rounds:
            return DraftCost(curve=self.drafter_curve)
        return DraftCost(
            curve=self.drafter_curve,
            observed_round_s=median(load.draft_round_s for load in rounds),
            observed_sessions=max(round(median(load.active_sessions for load in rounds)), 1),
        )

    def active_sessions(self) -> int:
        """Return the mean sessions of a replica now."""
        loads = [member.load.active_sessions for member in self.members if member.load]
        return round(fmean(loads)) if loads else 0

    def context_tokens(self) -> float:
        """Return the mean context of the sessions that are active now."""
        busy = [
            member.load for member in self.members if member.load and member.load.active_sessions
        ]
        return fmean(load.mean_context_tokens for load in busy) if busy else 0.0


def issue(
    key: BudgetKey,
    evidence: Evidence,
    previous: Issued | None,
    settings: PlanSettings,
    *,
    term: Term,
    epoch: Epoch,
    now_s: float,
    policy: Policy = DEFAULT_POLICY,
) -> Issued:
    """Decide one class's budget.

    Args:
        key: The class.
        evidence: What to compute it from.
        previous: What the class has.
        settings: How to plan.
        term: Of this controller.
        epoch: The epoch of the budget, if one is to be sent.
        now_s: A monotonic clock.
        policy: Of the pool; a change of it waits for no dwell time.

    Returns:
        ``previous`` with its times, or a budget with the epoch given: it has to be sent.
    """
    problem = evidence.curve_problem()
    if previous is not None and rules_of(settings, policy) != rules_of(settings, previous.policy):
        previous = replace(previous, planned=(), considered_s=-math.inf)  # other rules: a new plan
    switched = previous is not None and (evidence.stopped is not None) != (
        previous.planned == disabled()
    )
    if previous is None or switched or _due(previous, problem, settings, now_s):
        planned, planned_reason = plan_table(
            evidence, settings, policy, previous=() if previous is None else previous.planned
        )
        considered_s = now_s
    else:
        planned, planned_reason = previous.planned, previous.planned_reason
        considered_s = previous.considered_s
    table = bound_table(planned, policy)
    if (
        previous is not None
        and table == previous.budget.buckets
        and policy == previous.policy
        and term == previous.budget.term
        and now_s - previous.renewed_s < settings.renew_s
    ):
        return replace(
            previous, planned=planned, planned_reason=planned_reason, considered_s=considered_s
        )
    budget = Budget(
        pool=key[0],
        term=term,
        epoch=epoch,
        ttl_s=settings.ttl_s,
        curve_version=key[1],
        buckets=table,
        reason=_reason(planned_reason, policy, table, planned),
        weights=policy.priority_weights,
    )
    return Issued(
        budget=budget,
        planned=planned,
        planned_reason=planned_reason,
        policy=policy,
        considered_s=considered_s,
        renewed_s=now_s,
    )


def resumed(key: BudgetKey, planned: tuple[ContextBucket, ...], reason: str) -> Issued:
    """Return a table of before a restart as if it had just been issued, and has to be again."""
    nobody = Budget(
        pool=key[0], term=Term(0), epoch=Epoch(0), ttl_s=0.0, curve_version=key[1], buckets=planned
    )  # fmt: skip
    return Issued(
        budget=nobody,
        planned=planned,
        planned_reason=reason,
        policy=DEFAULT_POLICY,
        considered_s=-math.inf,
        renewed_s=-math.inf,
    )


def _reason(
    planned_reason: str,
    policy: Policy,
    table: Sequence[ContextBucket],
    planned: Sequence[ContextBucket],
) -> str:
    if table == planned:
        return planned_reason
    if policy.mode is not Mode.AUTO:
        return f"policy {policy}"
    return f"{planned_reason}; bounded by policy {policy}"


def rules_of(settings: PlanSettings, policy: Policy) -> Rules:
    """Return the planner's rules with the policy's activation threshold and promise in them."""
    rules = replace(settings.rules, min_tokens_per_s=policy.min_tokens_per_s)
    if policy.activation_sessions is None:
        return rules
    return replace(rules, activation_sessions=policy.activation_sessions)


def _due(previous: Issued, problem: str | None, settings: PlanSettings, now_s: float) -> bool:
    distrusted = problem is not None and previous.planned != verify_all()
    return distrusted or now_s - previous.considered_s >= settings.dwell_s


def plan_table(
    evidence: Evidence,
    settings: PlanSettings,
    policy: Policy,
    *,
    previous: Sequence[ContextBucket] = (),
) -> tuple[tuple[ContextBucket, ...], str]:
    """Return a class's table before the policy's bounds, and why it is so.

    Args:
        evidence: What to compute it from.
        settings: How to plan.
        policy: Of the pool: its activation threshold and its promise are part of the plan.
        previous: The planned table in force, whose entries are kept unless a change pays.
    """
    if evidence.stopped is not None:
        return disabled(), f"speculation is off: {evidence.stopped}"
    problem = evidence.curve_problem()
    if problem is not None or evidence.curve is None:
        return verify_all(), f"verify all: the curve is {problem}"
    known = evidence.acceptance.num_vectors if evidence.acceptance is not None else 0
    if evidence.acceptance is None or known < settings.min_samples:
        few = f"{known} of {settings.min_samples} committed rounds are known"
        if previous and tuple(previous) not in (disabled(), verify_all()):
            return tuple(previous), f"{describe(previous)}: as before; {few}"
        return verify_all(), f"verify all: {few}"
    draft = evidence.draft_cost()
    curve = evidence.refined_curve()
    table = make_table(
        evidence.acceptance,
        curve,
        draft,
        rules_of(settings, policy),
        active_sessions=evidence.active_sessions(),
        max_sessions=settings.max_sessions,
        max_cohorts=settings.max_cohorts,
        previous=previous,
    )
    return table, (
        f"{describe(table)}: {known} committed rounds, "
        f"draft round {1000 * draft.observed_round_s:.1f} ms"
    )


def _step_ratio(curve: Curve, member: Member) -> float | None:
    """Return measured over predicted seconds of a member's steps, or None if it took too few."""
    load = member.load
    if load is None or load.steps < _MIN_STEPS or load.batch_tokens < load.steps:
        return None
    batch_tokens = round(load.batch_tokens / load.steps)
    predicted_s = step_seconds(
        curve,
        sessions=max(min(load.active_sessions, batch_tokens), 1),
        batch_tokens=batch_tokens,
        context_tokens=load.mean_context_tokens,
    )
    return load.step_s / load.steps / predicted_s
