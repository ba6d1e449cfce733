"""The pulse of steps, and that a draft's price does not follow what another load's steps held."""

import pytest

from dspark.core.skip import DraftPrice
from dspark.verifier.pace import Pace
from dspark.verifier.rounds import Pulse
from dspark.verifier.window import Sums
from tests.fleet_examples import a_curve

VERIFY = a_curve({1: 0.010, 8: 0.011, 64: 0.018, 256: 0.060}, sessions=(1, 8, 32))
DRAFT = a_curve({7: 0.002, 224: 0.020}, sessions=(1, 32))


def steps_of(sessions: int) -> Sums:
    """Of each session the last token and three drafts, two of which were accepted."""
    return Sums(
        steps=1,
        batch_tokens=4 * sessions + 40,
        prompt_tokens=40,
        committed_tokens=3 * sessions,
        session_steps=sessions,
        drafted_steps=sessions,
    )


def price_after(sessions: int) -> DraftPrice | None:
    pulse = Pulse()
    for _ in range(20):
        pulse.beat(steps_of(sessions))
    return Pace(1, curve=VERIFY, block_size=7).price(
        sessions=32,
        context_tokens=64,
        batch_tokens=pulse.batch_tokens,
        committed_tokens=pulse.committed_tokens,
        drafter_curve=DRAFT,
        round_trip_s=0.030,
    )


def test_a_session_has_its_share_of_a_step_prompts_left_out() -> None:
    pulse = Pulse()
    pulse.beat(steps_of(8))
    assert (pulse.batch_tokens, pulse.committed_tokens, pulse.drafted_share) == (4.0, 3.0, 1.0)


@pytest.mark.parametrize("before", [2, 8])
def test_when_sessions_come_the_price_is_that_of_the_present_load(before: int) -> None:
    price, same = price_after(before), price_after(32)
    assert price is not None
    assert same is not None
    assert price.token_s == pytest.approx(same.token_s)
    assert price.tokens_per_s == pytest.approx(same.tokens_per_s)
