import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.cohorts import Cohorts, choose_cohorts, cycle_seconds

milliseconds = st.integers(1, 50)


def simulated_cycle(cohorts: int, verify: int, draft: int, round_trip: int) -> float:
    """Drafter and verifier each do one thing at a time, first come first served."""
    rounds = 400
    drafter_free = verifier_free = 0.0
    ready = [0.0] * cohorts  # when each cohort's last commit reached the drafter
    ends = []
    for _ in range(rounds):
        for cohort in sorted(range(cohorts), key=lambda c: ready[c]):
            drafter_free = max(drafter_free, ready[cohort]) + draft
            verifier_free = max(verifier_free, drafter_free + round_trip / 2) + verify
            ready[cohort] = verifier_free + round_trip / 2
        ends.append(verifier_free)
    return (ends[-1] - ends[rounds // 2]) / (rounds - 1 - rounds // 2)


@given(st.sampled_from([1, 2]), milliseconds, milliseconds, milliseconds)
def test_the_cycle_is_what_an_event_simulation_finds(
    cohorts: Cohorts, verify: int, draft: int, round_trip: int
) -> None:
    formula = cycle_seconds(cohorts, verify_s=verify, draft_s=draft, round_trip_s=round_trip)
    assert simulated_cycle(cohorts, verify, draft, round_trip) == pytest.approx(formula, rel=0.01)


def test_two_cohorts_hide_drafting_behind_verifying() -> None:
    assert cycle_seconds(1, verify_s=10, draft_s=8, round_trip_s=1) == 19
    assert cycle_seconds(2, verify_s=10, draft_s=8, round_trip_s=1) == 20  # for twice the rounds


@pytest.mark.parametrize(("verify", "draft", "bound"), [(9, 1, 18), (1, 9, 18), (3, 4, 17)])
def test_the_dearest_of_verifier_drafter_and_lap_bounds_the_cycle(
    verify: int, draft: int, bound: int
) -> None:
    assert cycle_seconds(2, verify_s=verify, draft_s=draft, round_trip_s=10 if bound == 17 else 0) \
        == bound  # fmt: skip


def test_one_session_is_never_split() -> None:
    assert choose_cohorts(sessions=1, one_tokens_per_s=1, two_tokens_per_s=99) == 1


def test_the_choice_changes_only_for_a_gain_above_the_margin() -> None:
    def choose(two: float, current: Cohorts) -> int:
        return choose_cohorts(
            sessions=8, one_tokens_per_s=100, two_tokens_per_s=two, current=current, margin=0.1
        )

    assert [choose(two, 1) for two in (90, 109, 111)] == [1, 1, 2]
    assert [choose(two, 2) for two in (90, 92, 111)] == [1, 2, 2]


@given(st.floats(1, 100), st.floats(1, 100))
def test_equal_evidence_never_flaps(one: float, two: float) -> None:
    def choose(current: Cohorts) -> Cohorts:
        return choose_cohorts(
            sessions=4, one_tokens_per_s=one, two_tokens_per_s=two, current=current
        )

    first = choose(1)
    assert choose(first) == first
