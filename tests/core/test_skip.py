import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.cohorts import Cohorts
from dspark.core.curve import step_seconds
from dspark.core.skip import DraftPrice, SkipState, draft_price
from tests.fleet_examples import a_curve

# A round yields 1000 tokens/s; one more session costs 1 ms, one more token 0.1 ms.
PRICE = DraftPrice(tokens_per_s=1000.0, draft_s=0.001, token_s=0.0001)


def after(rounds: int, *, accepted: int, verified: int = 5) -> SkipState:
    state = SkipState()
    for _ in range(rounds):
        state.observe(accepted=accepted, verified=verified)
    return state


def decisions(state: SkipState, price: DraftPrice | None, count: int) -> list[bool]:
    return [state.wants_draft(price) for _ in range(count)]


def test_a_draft_pays_where_its_tokens_come_faster_than_the_others() -> None:
    # Without the draft a round takes 27 ms and commits 18 tokens; with it, 30 ms.
    price = DraftPrice(tokens_per_s=18 / 0.027, draft_s=0.002, token_s=0.0002)
    for accepted in (1.0, 1.5, 1.9, 2.1, 4.0):
        faster = (18 + accepted) / 0.030 > 18 / 0.027
        assert price.pays(accepted=accepted, verified=5) == faster


def test_sessions_that_pay_are_always_drafted() -> None:
    assert all(decisions(after(20, accepted=3), PRICE, 300))


def test_bad_luck_alone_does_not_make_a_session_pause() -> None:
    # Drafts that survive with 0.6 each: 1.46 accepted on average, where 0.7 pay.
    price = DraftPrice(tokens_per_s=600.0, draft_s=0.001, token_s=0.0001)
    random, skipped = Random(5), 0
    for _ in range(50):
        state = SkipState()
        for _ in range(40):
            skipped += not state.wants_draft(price)
            lost = next((k for k in range(7) if random.random() >= 0.6), 7)
            state.observe(accepted=lost, verified=1)
    assert skipped < 0.01 * 50 * 40


def test_a_session_that_does_not_pay_pauses_and_is_retried_ever_more_seldom() -> None:
    asked = decisions(after(20, accepted=0), PRICE, 600)
    assert not asked[0]
    tries = [index for index, wanted in enumerate(asked) if wanted]
    gaps = [later - before for before, later in itertools.pairwise(tries)]
    assert gaps == [17, 33, 65, 129, 129, 129][: len(gaps)]
    assert tries[0] == 8


def test_a_session_that_recovers_is_drafted_again() -> None:
    state = after(20, accepted=0)
    for _ in range(60):
        if state.wants_draft(PRICE):
            state.observe(accepted=7, verified=7)
    assert all(decisions(state, PRICE, 50))


@pytest.mark.parametrize("rounds", [0, 3, 7])
def test_a_young_session_is_drafted(rounds: int) -> None:
    assert all(decisions(after(rounds, accepted=0), PRICE, 20))


def test_without_a_price_everybody_is_drafted() -> None:
    assert all(decisions(after(20, accepted=0), None, 20))


@given(st.lists(st.integers(0, 7), max_size=60), st.floats(0.0, 1e5))
def test_nobody_is_given_up_for_ever(accepted: list[int], tokens_per_s: float) -> None:
    state = SkipState()
    for count in accepted:
        state.observe(accepted=count, verified=7)
    price = DraftPrice(tokens_per_s=tokens_per_s, draft_s=0.001, token_s=0.0001)
    assert any(decisions(state, price, 129))


CURVE = a_curve({8: 0.010, 16: 0.012, 40: 0.018})
DRAFTER = a_curve({7: 0.002, 56: 0.009})


@pytest.mark.parametrize(
    ("cohorts", "outside_s", "one_more_s", "turn_s"),
    [
        (1, 0.003, 0.007 / 7, 0.018 + 0.009 + 0.003),
        (2, 0.003, 0.0, 2 * 0.018),  # hidden behind the other cohort
        (2, 0.020, 0.007 / 7, 0.018 + 0.009 + 0.020),
    ],
)
def test_the_price_of_a_draft(
    cohorts: Cohorts, outside_s: float, one_more_s: float, turn_s: float
) -> None:
    price = draft_price(
        CURVE,
        DRAFTER,
        sessions=8,
        batch_tokens=40,
        committed_tokens=24.0,
        context_tokens=0,
        block_size=7,
        cohorts=cohorts,
        outside_s=outside_s,
    )
    assert price.draft_s == pytest.approx(one_more_s)
    assert price.token_s == pytest.approx((0.018 - 0.010) / 32)
    # An average session has two drafts accepted of four verified.
    others_s = turn_s / cohorts - one_more_s - 4 * 0.008 / 32
    assert price.tokens_per_s == pytest.approx((24 - 2) / others_s)
    assert price.wait_s == pytest.approx(turn_s / cohorts - 0.018)


def test_the_only_session_s_draft_costs_the_whole_round_trip() -> None:
    price = draft_price(
        CURVE, DRAFTER, sessions=1, batch_tokens=8, committed_tokens=3.0, context_tokens=0,
        block_size=7, cohorts=1, outside_s=0.004,
    )  # fmt: skip
    assert price.draft_s == pytest.approx(0.002 + 0.004)
    # It is held against plain decoding.
    plain_s = step_seconds(CURVE, sessions=1, batch_tokens=1, context_tokens=0)
    assert price.tokens_per_s == pytest.approx(1 / plain_s)


def test_one_stair_of_the_curve_is_not_the_price_of_a_token() -> None:
    """Of steps that carried hardly a draft, the first token lies on a stair and costs all of it."""
    price = draft_price(
        CURVE, DRAFTER, sessions=8, batch_tokens=9, committed_tokens=8.5, context_tokens=0,
        block_size=7, cohorts=1, outside_s=0.003,
    )  # fmt: skip
    assert step_seconds(CURVE, sessions=8, batch_tokens=9, context_tokens=0) == 0.012
    assert price.token_s == pytest.approx((0.012 - 0.010) / 8)
