from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.budget import ALL, OFF, ContextBucket
from dspark.core.cohorts import Cohorts
from dspark.core.curve import Curve, step_seconds
from dspark.core.draft import survivals
from dspark.core.policy import Rules
from dspark.core.reservoir import Acceptance, pool_survivals
from dspark.core.table import describe, make_table
from dspark.core.theta import DraftCost
from tests.fleet_examples import a_curve

EXACT = Rules(activation_sessions=1, trim_gain=0.0, off_gain=0.0, change_gain=0.0)
GOOD = pool_survivals([(0.9, 0.8, 0.7)] * 4)
POOR = pool_survivals([(0.3, 0.05, 0.01)] * 4)
DEAR = a_curve({n: 10.0 * n for n in range(1, 33)}, sessions=(1, 2, 4, 8))


def entries(
    acceptance: Acceptance,
    curve: Curve,
    *,
    draft_s: float = 0.0,
    rules: Rules = EXACT,
    max_cohorts: Cohorts = 1,
    active: int = 0,
    previous: Sequence[ContextBucket] = (),
) -> tuple[int, ...]:
    table = make_table(
        acceptance, curve, DraftCost(observed_round_s=draft_s), rules,
        active_sessions=active, max_sessions=8, max_cohorts=max_cohorts, previous=previous,
    )  # fmt: skip
    return table[0].draft_tokens


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.floats(1, 9), min_size=16, max_size=16),
    st.floats(0, 20),
)
def test_every_entry_is_the_global_best(
    rows: list[list[float]], steps: list[float], draft_s: float
) -> None:
    pooled = pool_survivals([survivals(row) for row in rows])
    curve = a_curve(dict(enumerate(steps, 1)), sessions=(1, 2, 4))
    table = make_table(
        pooled, curve, DraftCost(observed_round_s=draft_s), EXACT,
        active_sessions=0, max_sessions=4, max_cohorts=1,
    )  # fmt: skip
    for sessions, entry in enumerate(table[0].draft_tokens, 1):

        def value(k: int, drafting_s: float, sessions: int = sessions) -> float:
            verify_s = step_seconds(
                curve, sessions=sessions, batch_tokens=sessions + k, context_tokens=64
            )
            tokens = pooled.expected_tokens(sessions, np.array([k]))[0]
            return float(tokens / (verify_s + drafting_s))

        best = max(value(k, draft_s) for k in range(3 * sessions + 1))
        off = value(0, 0.0)
        if entry == OFF:
            assert off >= best
        else:
            k = 3 * sessions if entry == ALL else entry
            assert value(k, draft_s) == pytest.approx(max(best, off))


def test_free_tokens_are_all_verified() -> None:
    assert entries(GOOD, a_curve({1: 10.0, 32: 10.3}, sessions=(1, 2, 4, 8))) == (ALL,) * 8


def test_dear_tokens_with_poor_drafts_are_not_drafted_at_all() -> None:
    assert entries(POOR, DEAR) == (OFF,) * 8


def test_a_slow_drafter_is_not_used() -> None:
    curve = a_curve({1: 10.0, 8: 11.0, 32: 20.0}, sessions=(1, 2, 4, 8))
    assert entries(GOOD, curve, draft_s=1.0)[0] == ALL
    assert entries(GOOD, curve, draft_s=100.0) == (OFF,) * 8


def test_the_best_size_behind_a_stair_is_found() -> None:
    stairs = a_curve({1: 10.0, 2: 20.0, 4: 20.5}, sessions=(1,))
    assert entries(GOOD, stairs) == (ALL,)


def test_a_load_that_fills_the_machine_is_trimmed_to_the_stair() -> None:
    knee = a_curve({8: 10.0, 32: 40.0}, sessions=(1, 2, 4, 8))
    assert entries(GOOD, knee) == (ALL, ALL, 5, 4, 3, 2, 1, OFF)


def test_each_measured_context_has_a_bucket() -> None:
    table = make_table(
        GOOD, a_curve({1: 1.0, 9: 2.0}, context_tokens=(64, 512)), DraftCost(), EXACT,
        active_sessions=0, max_sessions=3,
    )  # fmt: skip
    assert [bucket.max_context_tokens for bucket in table] == [64, 512]
    assert [len(bucket.draft_tokens) for bucket in table] == [3, 3]


def test_a_table_reaches_no_further_than_its_curve() -> None:
    assert len(entries(GOOD, a_curve({1: 1.0, 9: 2.0}, sessions=(1, 2)))) == 2


def test_an_old_entry_stays_while_the_new_one_is_hardly_better() -> None:
    calm = Rules(activation_sessions=1, trim_gain=0.0, off_gain=0.0, change_gain=0.05)
    curve = a_curve({1: 10.0, 2: 10.9, 3: 12.0, 4: 14.8}, sessions=(1,))
    assert entries(GOOD, curve) == (ALL,)
    old = (ContextBucket(max_context_tokens=64, draft_tokens=(2,)),)
    assert entries(GOOD, curve, rules=calm, previous=old) == (2,)
    bad = (ContextBucket(max_context_tokens=64, draft_tokens=(0,)),)
    assert entries(GOOD, curve, rules=calm, previous=bad) == (ALL,)


def test_two_cohorts_make_a_slow_drafter_worth_its_while() -> None:
    """8 sessions in one step: 27.2 / (40 + 20) < 8 / 16 plain; in two: 27.2 / (2 * 24) > 8 / 16."""
    curve = a_curve({n: 8.0 + n for n in range(1, 33)}, sessions=(1, 2, 4, 8))
    assert entries(GOOD, curve, draft_s=20.0, max_cohorts=1)[3] == OFF
    assert entries(GOOD, curve, draft_s=20.0, max_cohorts=2, active=8)[3] == ALL


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((ALL, ALL), "all at 1-2"),
        ((OFF, OFF), "drafting does not pay at any load"),
        ((ALL, 3, 4), "all at 1, trimmed at 2-3"),
        ((ALL, 3, OFF, ALL), "all at 1, trimmed at 2, off at 3, all at 4"),
    ],
)
def test_a_table_is_described_in_a_few_words(row: tuple[int, ...], said: str) -> None:
    assert describe([ContextBucket(max_context_tokens=64, draft_tokens=row)]) == said
