"""Need: how many replicas a pool's load asks for, from what its replicas report.

Every need is a share of load over what one replica takes, never a step up or down from the present
count: so a replica that stays pending for ever neither blocks a decision nor inflates the next one.
Verifiers count by KV pages and by what each session is promised, prefill by prompt tokens against
the time to the first token; for drafters see ``core.drafter_need``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dspark.core.curve import max_sessions_of
from dspark.core.fleet import LoadReport, Member, ReplicaState
from dspark.core.issue import BudgetKey, Evidence, Issued
from dspark.core.policy import PlanSettings
from dspark.core.prediction import predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How one pool scales.

    Attributes:
        min_replicas: Never fewer.
        max_replicas: Never more.
        up_after_s: The load must ask for more for this long.
        down_after_s: The load must do with fewer for this long.
        idle_s: Drafters: without a session for this long the last one goes.
        utilisation: Share of a replica's pages, of the sessions that it can keep its promise to, or
            of its prompt tokens a second, to plan with.
        reserve: This share more load must still fit before a replica is given up.
        ttft_s: Prefill: queued prompts are to be computed within this.
        tokens_per_s_per_user: Verifiers: what each session is promised; None: nothing.
        max_loss: Drafters: share of the tokens a second that too few of them may cost.
    """

    min_replicas: int
    max_replicas: int
    up_after_s: float = 2.0
    down_after_s: float = 60.0
    idle_s: float = 300.0
    utilisation: float = 0.8
    reserve: float = 0.1
    ttft_s: float = 1.0
    tokens_per_s_per_user: float | None = None
    max_loss: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the load asks for.

    Attributes:
        fewest: Replicas that carry it.
        safe: Replicas that carry it with the reserve; with more, one can be given up.
        why: In one sentence.
        rate: Prefill: prompt tokens a second of one busy replica, for the next time.
    """

    fewest: int
    safe: int
    why: str
    rate: float = 0.0


def verifiers_needed(
    classes: Mapping[BudgetKey, tuple[Evidence, Issued]],
    members: Sequence[Member],
    scaling: Scaling,
    settings: PlanSettings,
    *,
    promised: float | None = None,
) -> Need | None:
    """Say how many verifiers the sessions need, or None while nobody reports.

    Args:
        classes: The pool's kinds of replicas with their budgets.
        members: The pool.
        scaling: How it scales.
        settings: How the planner is set.
        promised: Tokens a second of each session by policy; None: as ``scaling`` says.
    """
    loads = loads_of(members)
    if not loads:
        return None
    active = sum(load.active_sessions for load in loads)
    waiting = sum(load.waiting_sessions for load in loads)
    total_pages = fmean(load.total_pages for load in loads)
    used = sum(load.total_pages - load.free_pages for load in loads)
    # Who waits will take as many pages as those who are there.
    pages = used * (1.0 + waiting / active) if active else float(used)
    shares = [
        (
            pages / (total_pages * scaling.utilisation) if total_pages else 0.0,
            f"{active} sessions and {waiting} waiting take {pages:.0f} pages of "
            f"{total_pages:.0f} a replica",
        )
    ]
    if waiting:
        shares.append((1.0, f"{waiting} sessions wait"))
    slo = scaling.tokens_per_s_per_user if promised is None else promised
    if slo is not None and active + waiting:
        most = [
            found
            for evidence, issued in classes.values()
            if (found := _most_sessions(evidence, issued, settings, slo)) is not None
        ]
        if most:
            each = max(fmean(most) * scaling.utilisation, 1.0)
            shares.append(
                (
                    (active + waiting) / each,
                    f"{active + waiting} sessions; {each:.0f} a replica get {slo:g} tokens/s each",
                )
            )
    return _need(*max(shares), reserve=scaling.reserve)


def prefills_needed(
    members: Sequence[Member], scaling: Scaling, *, known_rate: float = 0.0
) -> Need | None:
    """Say how many prefill replicas the prompts need, or None while nobody reports.

    Args:
        members: The pool.
        scaling: How it scales.
        known_rate: Prompt tokens a second of one busy replica, as last seen; 0: never.
    """
    loads = loads_of(members)
    if not loads:
        return None
    busy_s = sum(load.step_s for load in loads)
    rate = sum(load.prompt_tokens for load in loads) / busy_s if busy_s > 0 else 0.0
    rate = rate or known_rate
    queued = sum(load.queued_prompt_tokens for load in loads)
    arriving = sum(load.prompt_tokens / load.window_s for load in loads if load.window_s > 0)
    if rate <= 0:
        return Need(fewest=1, safe=1, why="no prompt was computed yet")
    share = (arriving + queued / scaling.ttft_s) / (rate * scaling.utilisation)
    why = (
        f"{arriving:.0f} prompt tokens/s and {queued} queued, of which a replica computes "
        f"{rate:.0f}/s, within {scaling.ttft_s:g} s"
    )
    need = _need(share, why, reserve=scaling.reserve)
    # The last one stays: at none of them there is nothing to measure, and verifiers do its work.
    return Need(fewest=max(need.fewest, 1), safe=max(need.safe, 1), why=why, rate=rate)


def _need(share: float, why: str, *, reserve: float) -> Need:
    return Need(
        fewest=math.ceil(share - 1e-9), safe=math.ceil(share * (1.0 + reserve) - 1e-9), why=why
    )


def loads_of(members: Sequence[Member]) -> list[LoadReport]:
    """Return the newest reports of those that have begun to work."""
    return [
        member.load
        for member in members
        if member.load is not None and member.replica.state is not ReplicaState.STARTING
    ]


def _most_sessions(
    evidence: Evidence, issued: Issued, settings: PlanSettings, slo: float
) -> int | None:
    """Return the most sessions of a replica that each get ``slo`` tokens a second.

    At least 1, also where one session alone does not get it; None where nothing can be predicted.
    """

    def enough(sessions: int) -> bool | None:
        found = predict(
            evidence,
            issued.budget.buckets,
            settings,
            sessions=sessions,
            context_tokens=evidence.context_tokens(),
        )
        return None if found is None else found.tokens_per_s_per_user >= slo

    if evidence.curve is None or enough(1) is None:
        return None
    low, high = 1, max_sessions_of(evidence.curve)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if enough(middle) else (low, middle - 1)
    return low
