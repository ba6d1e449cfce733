"""Prediction: what a class of verifiers would yield under some table, and why it has its budget.

Everything here is computed from curves and recorded statistics; nothing is tried out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dspark.core.bounds import bound_entry
from dspark.core.budget import ALL, DISABLED, OFF, ContextBucket, lookup
from dspark.core.cohorts import Cohorts
from dspark.core.issue import Evidence, Issued, rules_of
from dspark.core.policy import PlanSettings
from dspark.core.theta import Theta, better_cohorts, choose_entry, promised_entry, theta


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a replica with so many sessions does, by the curve.

    Attributes:
        sessions: On the replica.
        entry: The table's entry for its steps: K, ALL or OFF.
        tokens_per_s: Committed by the replica.
        accepted_length: tau: tokens that a session commits in a round.
    """

    sessions: int
    entry: int
    tokens_per_s: float
    accepted_length: float

    @property
    def tokens_per_s_per_user(self) -> float:
        """What one session gets."""
        return self.tokens_per_s / self.sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a class has the budget that it has, for the step that its replicas run now.

    Attributes:
        sessions: In the step.
        context_tokens: Mean context of its sessions.
        cohorts: That the verifier's sessions are split into.
        planned: Entry before the policy.
        entry: Entry in force.
        binding: What decides the entry, in one sentence.
        theta: (K, tokens a second) for each K, all cohorts together; empty without a curve.
        off_tokens_per_s: Without drafting; None without a curve.
    """

    sessions: int
    context_tokens: float
    cohorts: Cohorts
    planned: int
    entry: int
    binding: str
    theta: tuple[tuple[int, float], ...] = ()
    off_tokens_per_s: float | None = None


def predict(
    evidence: Evidence,
    table: Sequence[ContextBucket],
    settings: PlanSettings,
    *,
    sessions: int,
    context_tokens: float,
) -> Prediction | None:
    """Predict one replica of a class, or return None where nothing is known to predict from.

    Args:
        evidence: Curve and statistics of the class.
        table: The budget to assume.
        settings: How the planner is set.
        sessions: On the replica, at least 1.
        context_tokens: Mean context of its sessions.
    """
    now = load_of(evidence, settings, sessions=sessions, context_tokens=context_tokens)
    if now is None or evidence.acceptance is None:
        return None
    entry = lookup(table, sessions=now.step.sessions, mean_context_tokens=context_tokens)
    if entry in {OFF, DISABLED, 0}:
        return Prediction(
            sessions=sessions, entry=entry, tokens_per_s=now.whole.off, accepted_length=1.0
        )
    last = len(now.row) - 1
    tokens = last if entry == ALL else min(entry, last)
    committed = evidence.acceptance.expected_tokens(now.step.sessions, np.array([tokens]))
    return Prediction(
        sessions=sessions,
        entry=entry,
        tokens_per_s=float(now.row[tokens]) * now.cohorts,
        accepted_length=float(committed[0]) / now.step.sessions,
    )


def explain(evidence: Evidence, issued: Issued, settings: PlanSettings) -> Why:
    """Say why a class has its budget, at the load that its replicas have now."""
    sessions = max(evidence.active_sessions(), 1)
    context_tokens = evidence.context_tokens()
    now = load_of(evidence, settings, sessions=sessions, context_tokens=context_tokens)
    step_sessions = sessions if now is None else now.step.sessions
    planned = lookup(issued.planned, sessions=step_sessions, mean_context_tokens=context_tokens)
    entry, decided_by = bound_entry(planned, issued.policy)
    if decided_by != "plan":
        binding = f"policy: {decided_by}"
    else:
        binding = _planned_because(evidence, issued, settings, planned, now)
    return Why(
        sessions=step_sessions,
        context_tokens=context_tokens,
        cohorts=1 if now is None else now.cohorts,
        planned=planned,
        entry=entry,
        binding=binding,
        theta=() if now is None else now.curve(),
        off_tokens_per_s=None if now is None else now.whole.off,
    )


def _planned_because(
    evidence: Evidence, issued: Issued, settings: PlanSettings, planned: int, now: "Load | None"
) -> str:
    if evidence.stopped is not None:
        return f"speculation is switched off: {evidence.stopped}"
    problem = evidence.curve_problem()
    if problem is not None:
        return f"curve: {problem}"
    known = 0 if evidence.acceptance is None else evidence.acceptance.num_vectors
    if now is None or known < settings.min_samples:
        return f"samples: {known} of {settings.min_samples} committed rounds are known"
    rules = rules_of(settings, issued.policy)
    promised = rules.min_tokens_per_s
    if promised is not None:
        best = max(float(now.row.max()), now.off) / now.step.sessions
        if best < promised:
            return f"promise: {promised:g} tokens/s each is out of reach, {best:.3g} is the most"
        chosen = choose_entry(now.row, now.off, now.step.sessions, rules)
        if planned != chosen and planned == promised_entry(
            now.row, now.off, now.step.sessions, chosen, rules
        ):
            return f"promise: {promised:g} tokens/s each needs the fastest entry"
    if planned != choose_entry(now.row, now.off, now.step.sessions, rules):
        return "hysteresis: another entry would not gain enough to change"
    if planned == OFF:
        return "drafting does not pay: going without it commits more tokens a second"
    if now.step.sessions < rules.activation_sessions:
        return f"activation: below {rules.activation_sessions} sessions everything is verified"
    if planned == ALL:
        return "none: verifying everything is as good as any trim"
    return "theta: its highest point"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A replica's sessions as its steps carry them.

    Attributes:
        step: Theta of one step: of all sessions, or of half of them.
        cohorts: 1 or 2 accordingly.
        whole: Theta of all sessions in one step.
    """

    step: Theta
    cohorts: Cohorts
    whole: Theta

    @property
    def row(self) -> NDArray[np.float64]:
        """Tokens a second of one cohort, by K."""
        return self.step.by_cohorts(self.cohorts)

    @property
    def off(self) -> float:
        """One cohort's share of the tokens a second without drafting."""
        return self.whole.off / self.whole.sessions * self.step.sessions

    def curve(self) -> tuple[tuple[int, float], ...]:
        """Return (K of a step, tokens a second of all cohorts together)."""
        return tuple((tokens, float(value)) for tokens, value in enumerate(self.row * self.cohorts))


def load_of(
    evidence: Evidence, settings: PlanSettings, *, sessions: int, context_tokens: float
) -> Load | None:
    """Return a replica's steps with so many sessions, or None where nothing can be predicted."""
    acceptance = evidence.acceptance
    if evidence.curve is None or evidence.curve_problem() is not None:
        return None
    if acceptance is None or acceptance.num_vectors == 0:
        return None
    curve, draft = evidence.refined_curve(), evidence.draft_cost()
    whole = theta(acceptance, curve, draft, sessions=sessions, context_tokens=context_tokens)
    if settings.max_cohorts == 1 or sessions < 2:
        return Load(step=whole, cohorts=1, whole=whole)
    half = theta(
        acceptance, curve, draft, sessions=-(-sessions // 2), context_tokens=context_tokens
    )
    cohorts = better_cohorts(whole, half, sessions)
    return Load(step=whole if cohorts == 1 else half, cohorts=cohorts, whole=whole)
