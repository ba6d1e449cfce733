import pytest

from dspark.core.curve import CurvePoint, make_curve
from dspark.verifier.pace import Pace
from tests.fleet_examples import a_curve


def due(pace: Pace, sessions: list[int]) -> list[int]:
    return [index for index, count in enumerate(sessions, 1) if pace.due(count)]


def test_it_is_time_now_and_then_while_the_load_stays() -> None:
    pace = Pace("auto", curve=None, block_size=7)
    assert due(pace, [8] * 200) == [4, 68, 132, 196]


def test_it_is_time_sooner_when_the_load_doubles_or_halves_but_not_at_once() -> None:
    pace = Pace("auto", curve=None, block_size=7)
    assert due(pace, [4] * 20 + [7] * 20 + [8] * 20 + [4] * 20) == [4, 41, 61]


def test_a_load_that_goes_to_and_fro_is_not_followed_in_every_step() -> None:
    pace = Pace("auto", curve=None, block_size=7)
    assert due(pace, [1, 2] * 10) == [4, 9, 14, 19]


# A step costs by the session, so that two cohorts hide the drafting and lose nothing.
VERIFY = make_curve(
    "v",
    "toy",
    [
        CurvePoint(context_tokens=64, sessions=n, batch_tokens=n * k, step_s=0.010 * n)
        for n in (1, 2, 4, 8)
        for k in (1, 8)
    ],
)
DRAFT = a_curve({7: 0.005, 56: 0.040}, sessions=(1,))


@pytest.mark.parametrize(("drafted_share", "cohorts"), [(1.0, 2), (0.6, 2), (0.4, 1), (0.0, 1)])
def test_sessions_without_drafts_have_nothing_to_hide(drafted_share: float, cohorts: int) -> None:
    pace = Pace("auto", curve=VERIFY, block_size=7)
    pace.reconsider(
        sessions=8,
        context_tokens=64,
        drafted_share=drafted_share,
        drafter_curve=DRAFT,
        round_trip_s=0.040,
    )
    assert pace.cohorts == cohorts


def test_two_cohorts_that_crowd_each_other_become_one_and_are_tried_again() -> None:
    pace = Pace("auto", curve=VERIFY, block_size=7)

    def reconsider() -> int:
        pace.reconsider(
            sessions=8,
            context_tokens=64,
            drafted_share=1.0,
            drafter_curve=DRAFT,
            round_trip_s=0.040,
        )
        return pace.cohorts

    assert reconsider() == 2
    for _ in range(5):
        pace.surprised(1.05)  # within the margin
        assert reconsider() == 2
    for _ in range(5):
        pace.surprised(1.9)
    assert reconsider() == 1
    waited = 0
    while reconsider() == 1:
        pace.surprised(1.9)  # of steps of one cohort: not what is asked
        waited += 1
    assert 3 < waited < 100


def test_steps_faster_than_the_curve_are_no_reason_for_two_cohorts() -> None:
    pace = Pace(2, curve=VERIFY, block_size=7)
    pace.surprised(0.5)
    assert pace._crowding == 1.0
