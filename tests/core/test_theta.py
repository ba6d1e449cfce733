import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.budget import ALL, OFF
from dspark.core.cohorts import cycle_seconds
from dspark.core.curve import step_seconds
from dspark.core.draft import survivals
from dspark.core.policy import Rules
from dspark.core.reservoir import pool_survivals
from dspark.core.theta import DraftCost, choose_entry, keep_entry, theta
from tests.fleet_examples import a_curve

CURVE = a_curve({1: 10.0, 2: 11.0, 4: 13.0, 8: 20.0, 16: 36.0}, sessions=(1, 2, 4))
RULES = Rules(activation_sessions=2, trim_gain=0.0, off_gain=0.0, change_gain=0.05)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(1, 4),
    st.floats(0, 20),
)
def test_theta_is_tokens_over_the_cycle(
    rows: list[list[float]], sessions: int, draft_s: float
) -> None:
    pooled = pool_survivals([survivals(row) for row in rows])
    draft = DraftCost(observed_round_s=draft_s)
    found = theta(pooled, CURVE, draft, sessions=sessions, context_tokens=64)
    for k in range(3 * sessions + 1):
        verify_s = step_seconds(
            CURVE, sessions=sessions, batch_tokens=sessions + k, context_tokens=64
        )
        tokens = pooled.expected_tokens(sessions, np.array([k]))[0]
        one = cycle_seconds(1, verify_s=verify_s, draft_s=draft_s, round_trip_s=0)
        two = cycle_seconds(2, verify_s=verify_s, draft_s=draft_s, round_trip_s=0)
        assert found.one[k] == pytest.approx(tokens / one)
        assert found.two[k] == pytest.approx(2 * tokens / two)


def test_a_drafter_s_curve_tells_drafting_from_travelling() -> None:
    drafter = a_curve({3: 1.0, 6: 2.0, 12: 4.0}, sessions=(1, 2, 4))
    cost = DraftCost(curve=drafter, observed_round_s=2.5, observed_sessions=2)
    assert cost.split(2, 3) == (2.0, 0.5)
    assert cost.split(4, 3) == (4.0, 0.5)


def test_without_one_the_whole_round_is_drafting() -> None:
    assert DraftCost(observed_round_s=2.5).split(4, 3) == (2.5, 0.0)


@pytest.mark.parametrize(
    ("row", "off", "sessions", "entry"),
    [
        ([1.0, 3.0, 2.0], 0.5, 4, 1),
        ([1.0, 2.0, 3.0], 0.5, 4, ALL),
        ([1.0, 3.0, 2.0], 3.5, 4, OFF),
        ([1.0, 3.0, 2.0], 0.5, 1, ALL),  # below activation
        ([1.0, 3.0, 2.0], 3.5, 1, OFF),
        ([1.0, 0.5, 4.0, 0.5, 3.0], 0.5, 4, 2),  # beyond a dip: the search is global
    ],
)
def test_the_best_k_becomes_an_entry(
    row: list[float], off: float, sessions: int, entry: int
) -> None:
    assert choose_entry(np.array(row), off, sessions, RULES) == entry


def test_a_gain_too_small_to_trim_for_trims_nothing() -> None:
    row = np.array([1.0, 3.0, 2.98])
    assert choose_entry(row, 0.5, 4, Rules(trim_gain=0.02)) == ALL
    assert choose_entry(row, 0.5, 4, Rules(trim_gain=0.0)) == 1


def test_drafting_stops_only_for_a_clear_gain() -> None:
    row = np.array([1.0, 3.0])
    assert choose_entry(row, 3.1, 4, Rules(off_gain=0.05)) == ALL
    assert choose_entry(row, 3.2, 4, Rules(off_gain=0.05)) == OFF


def test_an_entry_stays_until_a_change_pays() -> None:
    row = np.array([1.0, 3.0, 3.1, 3.2])
    assert keep_entry(row, 0.5, 2, 1, RULES) == 1
    assert keep_entry(row, 0.5, 3, 1, RULES) == 3
    assert keep_entry(row, 3.1, OFF, 1, RULES) == 1
    assert keep_entry(row, 4.0, OFF, ALL, RULES) == OFF
    assert keep_entry(row, 0.5, 3, 99, RULES) == 99  # more than can be drafted: the same as all
