from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.curve import Curve, CurvePoint, step_seconds
from dspark.core.refinement import MAX_RATIO, Refinement, StepCell, refine

PROFILED = Curve(
    version="v",
    device="cpu",
    points=tuple(
        CurvePoint(
            context_tokens=context,
            sessions=sessions,
            batch_tokens=sessions * each,
            step_s=0.001 * (4 + sessions * each) * (1 + context / 1000),
        )
        for context in (64, 512)
        for sessions in (1, 2, 4, 8)
        for each in (1, 4, 8)
    ),
)

cells = st.lists(
    st.builds(
        lambda sessions, each, steps, ratio: StepCell(
            sessions=sessions, batch_tokens=sessions * each, steps=steps, ratio=ratio
        ),
        st.integers(1, 64),
        st.integers(1, 8),
        st.floats(1, 256),
        st.floats(1 / MAX_RATIO, MAX_RATIO),
    ),
    max_size=20,
)


def observed(ratio: float, *, sessions: int, each: int, steps: int = 400) -> Curve:
    """The curve after that many live steps of one size."""
    refinement = Refinement(PROFILED)
    said_s = seconds(PROFILED, sessions, each)
    for _ in range(steps):
        refinement.observe(
            sessions=sessions,
            batch_tokens=sessions * each,
            context_tokens=64,
            step_s=ratio * said_s,
        )
    return refinement.fold()


def seconds(curve: Curve, sessions: int, each: int) -> float:
    return step_seconds(curve, sessions=sessions, batch_tokens=sessions * each, context_tokens=64)


def ratio_at(curve: Curve, sessions: int, each: int) -> float:
    return seconds(curve, sessions, each) / seconds(PROFILED, sessions, each)


def test_nothing_observed_leaves_the_curve() -> None:
    assert Refinement(PROFILED).fold() == PROFILED
    assert refine(PROFILED, ()) == PROFILED


def test_steps_dearer_than_profiled_make_their_size_dearer() -> None:
    assert ratio_at(observed(1.5, sessions=4, each=4), 4, 4) == pytest.approx(1.5, abs=0.1)


def test_a_few_steps_are_hardly_believed() -> None:
    assert ratio_at(observed(2.0, sessions=4, each=4, steps=2), 4, 4) < 1.2


def test_sizes_never_seen_follow_the_common_ratio() -> None:
    assert 1.2 < ratio_at(observed(1.5, sessions=8, each=1), 1, 8) < 1.5


def test_each_size_is_corrected_by_its_own_steps() -> None:
    refinement = Refinement(PROFILED)
    for _ in range(256):
        for each, ratio in ((1, 2.0), (8, 1.0)):
            said_s = seconds(PROFILED, 2, each)
            refinement.observe(
                sessions=2, batch_tokens=2 * each, context_tokens=64, step_s=ratio * said_s
            )
    refined = refinement.fold()
    assert ratio_at(refined, 2, 1) > 1.7
    assert ratio_at(refined, 2, 8) < 1.3


def test_a_change_of_the_machine_is_followed() -> None:
    refinement = Refinement(PROFILED)
    for ratio in (2.0, 1.0):
        for _ in range(1500):
            refinement.observe(
                sessions=2,
                batch_tokens=2,
                context_tokens=64,
                step_s=ratio * seconds(PROFILED, 2, 1),
            )
    assert ratio_at(refinement.fold(), 2, 1) == pytest.approx(1.0, abs=0.05)


def test_one_stall_is_not_believed_as_such() -> None:
    refinement = Refinement(PROFILED)
    refinement.observe(sessions=1, batch_tokens=1, context_tokens=64, step_s=3600.0)
    assert ratio_at(refinement.fold(), 1, 1) < 1.2


@given(cells)
def test_a_refined_curve_is_bounded_monotone_and_of_the_same_version(seen: list[StepCell]) -> None:
    refined = refine(PROFILED, seen)
    assert replace(refined, points=PROFILED.points) == PROFILED
    for before, after in zip(PROFILED.points, refined.points, strict=True):
        assert after.step_s <= before.step_s * MAX_RATIO * 1.001
        assert after.step_s >= before.step_s / MAX_RATIO * 0.999
    for left, right in zip(refined.points, refined.points[1:], strict=False):
        if (left.context_tokens, left.sessions) == (right.context_tokens, right.sessions):
            assert left.step_s <= right.step_s


def test_surprise_is_against_the_curve_as_refined_before() -> None:
    refinement = Refinement(PROFILED)
    said_s = seconds(PROFILED, 4, 4)
    surprises = []
    for _ in range(40):
        for _ in range(16):
            refinement.observe(sessions=4, batch_tokens=16, context_tokens=64, step_s=1.5 * said_s)
        refinement.fold()
        surprises.append(refinement.surprise)
    assert surprises[0] == pytest.approx(1.5)
    assert 1.0 < surprises[-1] < 1.2
    before = refinement.surprise
    refinement.fold()  # nothing ran: nothing new is known
    assert refinement.surprise == before
