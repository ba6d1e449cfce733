import pytest

from dspark.drafting.deadline import Deadline


def test_before_the_first_answer_the_floor_counts() -> None:
    deadline = Deadline(floor_s=0.25, factor=3.0)
    assert deadline.seconds == 0.25
    assert deadline.round_trip_s == 0.0


def test_the_first_round_trip_is_taken_as_it_is() -> None:
    deadline = Deadline(floor_s=0.25, factor=3.0)
    deadline.observe(2.0)
    assert deadline.seconds == 6.0


def test_later_round_trips_are_smoothed() -> None:
    deadline = Deadline(floor_s=0.25, factor=3.0)
    deadline.observe(2.0)
    deadline.observe(1.0)
    assert deadline.round_trip_s == pytest.approx(1.9)


def test_a_fast_drafter_is_waited_for_no_less_than_the_floor() -> None:
    deadline = Deadline(floor_s=0.25, factor=3.0)
    deadline.observe(0.01)
    assert deadline.seconds == 0.25


def test_a_drafter_that_becomes_slow_is_waited_for_in_time() -> None:
    deadline = Deadline(floor_s=0.05, factor=3.0)
    deadline.observe(0.01)
    for _ in range(30):
        deadline.observe(1.0)
    assert deadline.seconds > 1.0
