"""Drafter need: how many drafters the verifiers' rounds are worth.

One more drafter makes batches smaller and waiting shorter, and so the verifiers' cycle
(``core.cohorts``), until verifying is what it takes.  So the ratio of drafters to verifiers follows
the cost of both and not the number of requests that are running.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np

from dspark.core.budget import ALL, DISABLED, OFF, lookup
from dspark.core.cohorts import Cohorts, cycle_seconds
from dspark.core.curve import step_seconds
from dspark.core.fleet import Member
from dspark.core.issue import BudgetKey, Evidence, Issued
from dspark.core.need import Need, Scaling, loads_of
from dspark.core.policy import PlanSettings
from dspark.core.prediction import load_of
from dspark.core.theta import DraftCost

_MAX_SLOWDOWN = 10.0  # no measurement stretches a curve by more
_KEEP = 0.8  # one is given up only where the others would lose less than this share of max_loss


def drafters_needed(
    classes: Mapping[BudgetKey, tuple[Evidence, Issued]],
    drafters: Sequence[Member],
    scaling: Scaling,
    settings: PlanSettings,
) -> Need | None:
    """Say how many drafters are needed, or None while no verifier reports.

    The fewest with which all verifiers together commit nearly as many tokens a second as with
    ``max_replicas``.

    Args:
        classes: Every kind of verifier, with its budget.
        drafters: The pool.
        scaling: How it scales.
        settings: How the planner is set.
    """
    loads = loads_of([member for evidence, _ in classes.values() for member in evidence.members])
    if not loads:
        return None
    if not any(load.active_sessions or load.waiting_sessions for load in loads):
        return Need(fewest=0, safe=0, why="no session is open")
    drafting = [
        (evidence, issued) for evidence, issued in classes.values() if _drafts(evidence, issued)
    ]
    if not drafting:
        return Need(fewest=0, safe=0, why="speculation is off")
    rounds = [
        found
        for evidence, issued in drafting
        if (found := _rounds(evidence, issued, settings)) is not None
    ]
    if not rounds:
        return Need(fewest=1, safe=1, why="one for probes, and for what is not measured yet")
    seen = _seen(drafters, rounds)
    tokens = [
        sum(one.tokens_per_s(seen, count) for one in rounds)
        for count in range(1, max(scaling.max_replicas, 1) + 1)
    ]
    best = tokens[-1]
    fewest, safe = (
        next(count for count, value in enumerate(tokens, 1) if value >= best * (1 - loss))
        for loss in (scaling.max_loss, scaling.max_loss * _KEEP)
    )
    draft_s, queue_s = seen.at(fewest)
    verify_s = max(one.verify_s for one in rounds)
    why = (
        f"{fewest} give {tokens[fewest - 1] / best:.0%} of what {len(tokens)} would: drafting "
        f"{1000 * draft_s:.1f} ms and waiting {1000 * queue_s:.1f} ms against verifying "
        f"{1000 * verify_s:.1f} ms"
    )
    return Need(fewest=fewest, safe=safe, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Drafting as it is now, and so as it would be with another number of drafters.

    Attributes:
        drafters: That share the work now.
        batch: Sessions in one of their batches.
        slowdown: Measured seconds of a batch over those of the curve.
        queue_s: Mean wait of a round for its batch.
        cost: The curve.
        block_size: gamma.
    """

    drafters: int
    batch: float
    cost: DraftCost
    block_size: int
    slowdown: float = 1.0
    queue_s: float = 0.0

    def at(self, drafters: int) -> tuple[float, float]:
        """Return (drafting, waiting) in seconds with so many drafters: sessions spread evenly."""
        share = self.drafters / drafters
        draft_s, _ = self.cost.split(max(math.ceil(self.batch * share - 1e-9), 1), self.block_size)
        return self.slowdown * draft_s, self.queue_s * share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounds:
    """The rounds that one kind of verifier runs now.

    Attributes:
        replicas: Verifiers with sessions.
        sessions: In one step.
        cohorts: That a verifier alternates between.
        verify_s: Of one step.
        tokens: Committed by one step.
        cost: What drafting costs by the drafters' curve.
        block_size: gamma.
        round_s: Draft round trip as these verifiers see it; 0: not seen.
    """

    replicas: int
    sessions: int
    cohorts: Cohorts
    verify_s: float
    tokens: float
    cost: DraftCost
    block_size: int
    round_s: float

    def tokens_per_s(self, seen: _Seen, drafters: int) -> float:
        """Return what all of them commit a second with so many drafters."""
        # What the trip takes besides drafting and waiting, as it was seen.
        rest_s = max(self.round_s - sum(seen.at(seen.drafters)), 0.0)
        cycle_s = cycle_seconds(
            self.cohorts,
            verify_s=self.verify_s,
            draft_s=sum(seen.at(drafters)),
            round_trip_s=rest_s,
        )
        return self.replicas * self.cohorts * self.tokens / cycle_s


def _drafts(evidence: Evidence, issued: Issued) -> bool:
    """Whether a kind of verifier ever drafts: at least its probes."""
    first = issued.budget.buckets[0].draft_tokens[0]
    return evidence.stopped is None and first != DISABLED


def _rounds(evidence: Evidence, issued: Issued, settings: PlanSettings) -> _Rounds | None:
    """Return a class's rounds; None where it runs none with drafts, or they cannot be predicted."""
    busy = [load for load in loads_of(evidence.members) if load.active_sessions]
    acceptance, cost = evidence.acceptance, evidence.draft_cost()
    if not busy or acceptance is None or cost.curve is None:
        return None
    sessions = max(round(fmean(load.active_sessions for load in busy)), 1)
    context_tokens = evidence.context_tokens()
    now = load_of(evidence, settings, sessions=sessions, context_tokens=context_tokens)
    if now is None:
        return None
    step = now.step.sessions
    entry = lookup(issued.budget.buckets, sessions=step, mean_context_tokens=context_tokens)
    if entry in {OFF, 0}:
        return None
    most = step * acceptance.block_size
    tokens = most if entry == ALL else min(entry, most)
    seen = [load.draft_round_s for load in busy if load.draft_round_s > 0]
    return _Rounds(
        replicas=len(busy),
        sessions=step,
        cohorts=now.cohorts,
        verify_s=step_seconds(
            evidence.refined_curve(),
            sessions=step,
            batch_tokens=step + tokens,
            context_tokens=context_tokens,
        ),
        tokens=float(acceptance.expected_tokens(step, np.array([tokens]))[0]),
        cost=cost,
        block_size=acceptance.block_size,
        round_s=median(seen) if seen else 0.0,
    )


def _seen(drafters: Sequence[Member], rounds: Sequence[_Rounds]) -> _Seen:
    """Take drafting from the drafters' reports, and without any from the verifiers' sessions."""
    cost, block_size = rounds[0].cost, rounds[0].block_size
    busy = [load for load in loads_of(drafters) if load.steps and load.batch_tokens]
    if not busy:
        sessions = sum(one.replicas * one.sessions for one in rounds)
        verifiers = sum(one.replicas for one in rounds)
        alone = _Seen(drafters=1, batch=sessions, cost=cost, block_size=block_size)
        # A round that finds the drafter at work waits for half of a batch.
        return replace(alone, queue_s=alone.at(1)[0] * (1 - 1 / verifiers) / 2)
    batches = sum(load.steps for load in busy)
    batch = sum(load.batch_tokens for load in busy) / batches / block_size
    profiled_s, _ = cost.split(max(round(batch), 1), block_size)
    slowdown = sum(load.step_s for load in busy) / batches / profiled_s
    return _Seen(
        drafters=len(busy),
        batch=batch,
        cost=cost,
        block_size=block_size,
        slowdown=min(max(slowdown, 1 / _MAX_SLOWDOWN), _MAX_SLOWDOWN),
        queue_s=fmean(load.queue_s for load in busy),
    )
