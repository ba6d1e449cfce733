"""Measures: one cell's records as numbers.  Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from statistics import median

from dspark.bench.record import CellRecord, Counts, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What one cell reached; None where there was nothing to measure.

    Attributes:
        tokens_per_s: All users together, while the load was whole.
        user_tokens_per_s: Median over requests: tokens after the first arrival over their time.
        ttft_p50_ms: Median time to the first token.
        token_p50_ms: Median time between tokens; those that come together share their gap.
        token_p99_ms: The 99th percentile of the same.
        round_p50_ms: Median time between arrivals, that is of a round.
        accepted_length: tau: tokens of a step that had a draft.
        tokens_per_step: The same over all steps.
        verified_per_request: Draft tokens that the target judged.
        wasted_share: Of those, rejected.
        verified_share: Of all that was drafted, what the budget let through.
        steps_per_request: Verify steps.
        plain_share: Of them, those without a draft.
        bytes_per_token: Moved between verifier and drafter for each generated token.
        bytes_per_accepted: The same for each accepted draft.
        num_requests: Of the cell.
        num_tokens: Of the cell.
        seconds: While the load was whole.
    """

    tokens_per_s: float | None
    user_tokens_per_s: float | None
    ttft_p50_ms: float
    token_p50_ms: float | None
    token_p99_ms: float | None
    round_p50_ms: float | None
    accepted_length: float | None
    tokens_per_step: float | None
    verified_per_request: float
    wasted_share: float | None
    verified_share: float | None
    steps_per_request: float
    plain_share: float | None
    bytes_per_token: float
    bytes_per_accepted: float | None
    num_requests: int
    num_tokens: int
    seconds: float


def measure(record: CellRecord) -> Measures:
    """Return a cell's numbers."""
    served = record.served
    seconds = record.whole_until_s - record.began_s
    in_time = sum(
        arrival.tokens
        for one in served
        for arrival in one.arrivals
        if arrival.at_s <= record.whole_until_s
    )
    num_tokens = sum(len(one.token_ids) for one in served)
    counts = reduce(add, (one.counts for one in served), Counts())
    gaps = sorted(gap for one in served for gap in _token_gaps_s(one))
    rounds = sorted(gap for one in served for gap, _ in _gaps_s(one))
    speeds = sorted(speed for one in served if (speed := _speed(one)) is not None)
    drafted = counts.drafted_steps
    return Measures(
        tokens_per_s=_share(in_time, seconds),
        user_tokens_per_s=median(speeds) if speeds else None,
        ttft_p50_ms=1e3 * median(one.arrivals[0].at_s - one.asked_s for one in served),
        token_p50_ms=_percentile_ms(gaps, 0.5),
        token_p99_ms=_percentile_ms(gaps, 0.99),
        round_p50_ms=_percentile_ms(rounds, 0.5),
        accepted_length=1.0 + counts.accepted_tokens / drafted if drafted else None,
        # The first token of a request comes from its prompt, not from a verify step.
        tokens_per_step=_share(num_tokens - len(served), counts.steps),
        verified_per_request=counts.verified_tokens / len(served),
        wasted_share=_share(
            counts.verified_tokens - counts.accepted_tokens, counts.verified_tokens
        ),
        verified_share=_share(counts.verified_tokens, counts.drafted_tokens),
        steps_per_request=counts.steps / len(served),
        plain_share=_share(counts.plain_steps, counts.steps),
        bytes_per_token=counts.moved_bytes / num_tokens,
        bytes_per_accepted=_share(counts.moved_bytes, counts.accepted_tokens),
        num_requests=len(served),
        num_tokens=num_tokens,
        seconds=seconds,
    )


def count_differing(record: CellRecord, reference: CellRecord) -> int:
    """Return how many requests of two cells of one turn have different outputs."""
    pairs = zip(record.served, reference.served, strict=True)
    return sum(not mine.same_output(theirs) for mine, theirs in pairs)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of ``ordered`` (ascending) reach."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _percentile_ms(ordered: Sequence[float], share: float) -> float | None:
    return 1e3 * percentile(ordered, share) if ordered else None


def _gaps_s(one: Served) -> list[tuple[float, int]]:
    """Return each arrival's (time since the one before, tokens)."""
    return [(later.at_s - before.at_s, later.tokens) for before, later in pairwise(one.arrivals)]


def _token_gaps_s(one: Served) -> list[float]:
    return [gap / tokens for gap, tokens in _gaps_s(one) for _ in range(tokens)]


def _speed(one: Served) -> float | None:
    first, last = one.arrivals[0], one.arrivals[-1]
    return _share(len(one.token_ids) - first.tokens, last.at_s - first.at_s)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
