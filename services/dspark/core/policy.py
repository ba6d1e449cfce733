"""Policy: how the planner is asked to plan."""

from dataclasses import dataclass

from dspark.core.cohorts import Cohorts


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a best K becomes a table's entry.

    Attributes:
        activation_sessions: Below this many sessions all drafts are verified.
        trim_gain: Trim only for at least this share more Theta than verifying all.
        off_gain: Go without drafts only for at least this share more Theta.
        change_gain: Keep the previous entry unless the new one gives this share more Theta.
    """

    activation_sessions: int = 2
    trim_gain: float = 0.02
    off_gain: float = 0.05
    change_gain: float = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """How to plan.

    Attributes:
        ttl_s: Life of a budget at the replicas, from receipt.
        renew_s: A budget older than this is sent again; well below ``ttl_s``.
        dwell_s: A table is reconsidered once in this long.
        min_samples: Committed survival vectors needed before anything is trimmed.
        max_sessions: Largest session count in a table.
        max_cohorts: 1 where verifiers never alternate two cohorts.
        rules: When to trim, to stop drafting, and to change.
    """

    ttl_s: float = 5.0
    renew_s: float = 1.5
    dwell_s: float = 2.0
    min_samples: int = 32
    max_sessions: int = 64
    max_cohorts: Cohorts = 2
    rules: Rules = Rules()
