"""Tables: one class of replicas' whole budget, over context buckets and sessions in the step."""

from collections.abc import Sequence
from itertools import groupby

from dspark.core.budget import ALL, OFF, ContextBucket
from dspark.core.cohorts import Cohorts
from dspark.core.curve import Curve, contexts_of, max_sessions_of
from dspark.core.policy import Rules
from dspark.core.reservoir import Acceptance
from dspark.core.theta import (
    DraftCost,
    Theta,
    choose_entry,
    cohorts_by_total,
    keep_entry,
    promised_entry,
    theta,
)


def make_table(
    acceptance: Acceptance,
    curve: Curve,
    draft: DraftCost,
    rules: Rules,
    *,
    active_sessions: int,
    max_sessions: int,
    max_cohorts: Cohorts = 2,
    previous: Sequence[ContextBucket] = (),
) -> tuple[ContextBucket, ...]:
    """Compute K, ALL or OFF for every measured context and 1 .. ``max_sessions`` sessions.

    Args:
        acceptance: Pooled survivals of committed rounds.
        curve: The replicas' curve, without a problem.
        draft: What drafting costs.
        rules: Thresholds.
        active_sessions: Sessions that a replica now has: decides where one cohort of R sessions
            and two of R / 2 are both sensible.
        max_sessions: At most this many entries; no more than the curve reaches.
        max_cohorts: 1 where verifiers never alternate.
        previous: The table in force, whose entries are kept unless a change pays.
    """
    limit = min(max_sessions, max_sessions_of(curve))
    buckets = []
    for context_tokens in contexts_of(curve):
        rows = [
            theta(acceptance, curve, draft, sessions=count, context_tokens=context_tokens)
            for count in range(1, limit + 1)
        ]
        kept = next(
            (old.draft_tokens for old in previous if old.max_context_tokens == context_tokens),
            (),
        )
        entries = []
        for row in rows:
            number: Cohorts = (
                1 if max_cohorts == 1 else _cohorts_of_step(rows, row.sessions, active_sessions)
            )
            value = row.by_cohorts(number)
            off = _off(rows, row, number)
            chosen = choose_entry(value, off, row.sessions, rules)
            if row.sessions <= len(kept):
                chosen = keep_entry(value, off, chosen, kept[row.sessions - 1], rules)
            entries.append(promised_entry(value, off, row.sessions, chosen, rules))
        buckets.append(
            ContextBucket(max_context_tokens=context_tokens, draft_tokens=tuple(entries))
        )
    return tuple(buckets)


def describe(table: Sequence[ContextBucket]) -> str:
    """Say in a few words what the first bucket of a table does, by sessions in the step."""
    runs = [
        (word, [number for number, _ in run])
        for word, run in groupby(enumerate(table[0].draft_tokens, 1), key=lambda e: _word(e[1]))
    ]
    if len(runs) == 1 and runs[0][0] == "off":
        return "drafting does not pay at any load"
    return ", ".join(
        f"{word} at {numbers[0]}" + (f"-{numbers[-1]}" if len(numbers) > 1 else "")
        for word, numbers in runs
    )


def _word(entry: int) -> str:
    return {ALL: "all", OFF: "off"}.get(entry, "trimmed")


def _cohorts_of_step(rows: list[Theta], sessions: int, active_sessions: int) -> Cohorts:
    """Say whether a step of ``sessions`` belongs to a verifier with one cohort or two.

    It is the whole of R sessions or half of 2R.  Where one cohort is right for R and two are right
    for 2R, the number of sessions that a replica has now decides.
    """
    if cohorts_by_total(rows, sessions) == 2:
        return 2
    if cohorts_by_total(rows, 2 * sessions) == 2:
        return cohorts_by_total(rows, max(active_sessions, 1))
    return 1


def _off(rows: list[Theta], row: Theta, cohorts: Cohorts) -> float:
    """Theta without drafting, for the share of ``row``'s sessions."""
    total = rows[min(row.sessions * cohorts, len(rows)) - 1]
    return total.off / total.sessions * row.sessions
