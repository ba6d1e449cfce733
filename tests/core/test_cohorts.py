import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.cohorts import Cohorts, choose_cohorts, cycle_seconds, place_in_cohorts

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


def test_one_cohort_holds_everybody() -> None:
    assert place_in_cohorts([None, 1, 0], 1) == [0, 0, 0]


def test_sessions_stay_where_they_are_as_others_come_and_go() -> None:
    assert place_in_cohorts([None] * 4, 2) == [0, 1, 0, 1]
    # The first of them has ended, and one has come: nobody else moves.
    assert place_in_cohorts([1, 0, 1, None], 2) == [1, 0, 1, 0]
    assert place_in_cohorts([1, 0, 1], 2) == [1, 0, 1]


def test_all_of_one_cohort_are_halved_when_there_are_two() -> None:
    assert place_in_cohorts([0] * 5, 2) == [0, 0, 0, 1, 1]


def test_the_youngest_move_where_the_halves_are_too_unlike() -> None:
    assert place_in_cohorts([0] * 9 + [1] * 7, 2) == [0] * 9 + [1] * 7  # differ by an eighth
    assert place_in_cohorts([1, 1, 1, 1, 0], 2) == [1, 1, 1, 0, 0]


@given(st.lists(st.sampled_from([None, 0, 1]), max_size=40))
def test_halves_are_alike_and_placing_again_moves_nobody(present: list[int | None]) -> None:
    placed = place_in_cohorts(present, 2)
    assert abs(placed.count(0) - placed.count(1)) <= max(1, len(placed) // 8)
    assert place_in_cohorts(placed, 2) == placed
