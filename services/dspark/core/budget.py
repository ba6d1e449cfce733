"""Budgets: how many draft tokens a verify step may carry, as a table over load.

A budget is a *table*, so that a change of load needs no round trip to the controller: only
the acceptance statistics in it age.  It is computed from committed rounds only, hence it
cannot depend on drafts that are still to be judged (lossless by construction).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dspark.core.ids import Epoch, PoolName, Term

ALL = -1
"""Entry: verify every drafted token."""

OFF = -2
"""Entry: do not draft at all (K = 0 would still pay for the drafter), but for a rare probe."""

DISABLED = -3
"""Entry: speculation is switched off, probes too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBucket:
    """Entries for one range of mean context length.

    Attributes:
        max_context_tokens: Largest mean context covered; the last bucket covers all above too.
        draft_tokens: Entry i is for i + 1 sessions in the step, the last one also for more:
            K >= 0 draft tokens in all, or ALL, or OFF, or DISABLED.
    """

    max_context_tokens: int
    draft_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.draft_tokens:
            raise ValueError("a context bucket needs at least one entry")
        for entry in self.draft_tokens:
            if entry < DISABLED:
                raise ValueError(
                    f"budget entry {entry} is none of K >= 0, ALL (-1), OFF (-2), DISABLED (-3)"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A pool's budget, as broadcast.

    Attributes:
        pool: The verifier pool it is for.
        term: Leadership term of the controller that issued it.
        epoch: Grows within a term.
        ttl_s: Seconds after receipt until it is no longer used.
        curve_version: The curve that it was computed from.
        buckets: By growing ``max_context_tokens``.
        reason: One sentence for people.
        weights: (priority, weight): what a draft counts where not all are verified; 1 where its
            session's priority is not listed.
    """

    pool: PoolName
    term: Term
    epoch: Epoch
    ttl_s: float
    curve_version: str
    buckets: tuple[ContextBucket, ...]
    reason: str = ""
    weights: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("a budget needs at least one context bucket")
        limits = [bucket.max_context_tokens for bucket in self.buckets]
        if limits != sorted(set(limits)):
            raise ValueError(f"context buckets must grow: {limits}")

    def newer_than(self, other: "Budget | None") -> bool:
        """Whether this one replaces ``other``: by (term, epoch)."""
        return other is None or (self.term, self.epoch) > (other.term, other.epoch)

    def entry(self, *, sessions: int, mean_context_tokens: float) -> int:
        """Return K, ALL, OFF or DISABLED for a step of ``sessions`` >= 1 at this mean context."""
        return lookup(self.buckets, sessions=sessions, mean_context_tokens=mean_context_tokens)


def lookup(table: Sequence[ContextBucket], *, sessions: int, mean_context_tokens: float) -> int:
    """Return a table's entry for a step of ``sessions`` >= 1 at this mean context."""
    if sessions < 1:
        raise ValueError(f"a step has at least one session, not {sessions}")
    for bucket in table:
        if mean_context_tokens <= bucket.max_context_tokens:
            break
    else:
        bucket = table[-1]
    return bucket.draft_tokens[min(sessions, len(bucket.draft_tokens)) - 1]


def verify_all(buckets: Sequence[int] = (2**31 - 1,)) -> tuple[ContextBucket, ...]:
    """Return the table that trims nothing: used where there is no trustworthy curve."""
    return tuple(ContextBucket(max_context_tokens=limit, draft_tokens=(ALL,)) for limit in buckets)


def disabled() -> tuple[ContextBucket, ...]:
    """Return the table that switches speculation off."""
    return (ContextBucket(max_context_tokens=2**31 - 1, draft_tokens=(DISABLED,)),)
