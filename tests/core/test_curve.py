import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.curve import (
    Curve,
    CurvePoint,
    contexts_of,
    curve_problem,
    make_curve,
    max_sessions_of,
    ramp_seconds,
    sps,
    step_seconds,
    steps_seconds,
)
from tests.fleet_examples import a_curve

STAIRS = a_curve({1: 1.0, 4: 2.0, 8: 4.0}, sessions=(1, 3), context_tokens=(100, 200))


def point(step_s: float, *, tokens: int = 1, sessions: int = 1, context: int = 0) -> CurvePoint:
    return CurvePoint(context_tokens=context, sessions=sessions, batch_tokens=tokens, step_s=step_s)


def seconds(curve: Curve, tokens: int, sessions: int = 1, context: float = 100) -> float:
    return step_seconds(curve, sessions=sessions, batch_tokens=tokens, context_tokens=context)


def test_a_point_is_the_median_of_its_repeats() -> None:
    curve = make_curve("v", "d", [point(1.0), point(9.0), point(2.0)])
    assert curve.points == (point(2.0),)


def test_a_step_is_not_dearer_than_a_larger_one() -> None:
    curve = make_curve("v", "d", [point(3.0, tokens=1), point(2.0, tokens=2), point(4.0, tokens=3)])
    assert [p.step_s for p in curve.points] == [2.0, 2.0, 4.0]


def test_nor_than_one_with_more_context() -> None:
    curve = make_curve("v", "d", [point(3.0, context=64), point(1.0, context=512)])
    assert [p.step_s for p in curve.points] == [1.0, 1.0]


def test_nor_than_one_with_more_sessions_of_as_many_tokens() -> None:
    alike = make_curve("v", "d", [point(3.0, tokens=2), point(1.0, tokens=4, sessions=2)])
    assert [p.step_s for p in alike.points] == [1.0, 1.0]
    # Two sessions of one token each may cost less than one of two.
    other = make_curve("v", "d", [point(3.0, tokens=2), point(1.0, tokens=2, sessions=2)])
    assert [p.step_s for p in other.points] == [3.0, 1.0]


def test_a_disturbed_measurement_spoils_no_other() -> None:
    def measured(small_s: float) -> Curve:
        costs = {1: small_s, 2: 0.011, 4: 0.013, 8: 0.018}
        return make_curve("v", "d", [point(cost, tokens=size) for size, cost in costs.items()])

    calm, disturbed = measured(0.010), measured(0.050)
    assert [p.step_s for p in calm.points] == [0.010, 0.011, 0.013, 0.018]
    assert [p.step_s for p in disturbed.points] == [0.011, 0.011, 0.013, 0.018]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_cannot_be_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="a step cannot take"):
        make_curve("v", "d", [point(bad)])


def test_no_samples_make_no_curve() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        make_curve("v", "d", [])


def test_a_size_between_two_stairs_costs_the_upper_one() -> None:
    assert [seconds(STAIRS, tokens) for tokens in (1, 2, 4, 5, 8)] == [1.0, 2.0, 2.0, 4.0, 4.0]


def test_above_the_largest_size_cost_follows_the_chord() -> None:
    assert seconds(STAIRS, 15) == pytest.approx(4.0 + 7 * 3.0 / 7)


def test_a_row_of_one_size_grows_in_proportion() -> None:
    assert seconds(make_curve("v", "d", [point(2.0, tokens=4)]), 8, context=0) == 4.0


def test_between_session_counts_and_contexts_cost_is_interpolated() -> None:
    curve = make_curve("v", "d", [
        point(1.0, sessions=1, context=100), point(3.0, sessions=3, context=100),
        point(2.0, sessions=1, context=200), point(6.0, sessions=3, context=200),
    ])  # fmt: skip
    assert seconds(curve, 1, sessions=2, context=100) == pytest.approx(2.0)
    assert seconds(curve, 1, sessions=1, context=150) == pytest.approx(1.5)
    assert seconds(curve, 1, sessions=2, context=150) == pytest.approx(3.0)


def test_outside_the_measured_contexts_the_nearest_one_counts() -> None:
    curve = make_curve("v", "d", [point(1.0, context=100), point(2.0, context=200)])
    assert seconds(curve, 1, context=400) == 2.0
    assert seconds(curve, 1, context=1) == 1.0


def test_more_sessions_than_measured_cost_the_largest_row() -> None:
    assert seconds(STAIRS, 8, sessions=50) == 4.0


def ramp(curve: Curve, *sizes: int, sessions: int = 1, context: float = 100) -> list[float]:
    tokens = np.array(sizes, dtype=np.int64)
    found = ramp_seconds(curve, sessions=sessions, batch_tokens=tokens, context_tokens=context)
    return [float(value) for value in found]


def test_a_ramp_leads_from_edge_to_edge() -> None:
    assert ramp(STAIRS, 1, 2, 3, 4, 6, 8) == pytest.approx([1.0, 4 / 3, 5 / 3, 2.0, 3.0, 4.0])


def test_a_ramp_passes_below_an_edge_that_lies_above_it() -> None:
    curve = a_curve({1: 1.0, 2: 4.0, 5: 5.0}, context_tokens=(100,))
    assert ramp(curve, 1, 2, 5) == pytest.approx([1.0, 2.0, 5.0])


def test_beyond_the_largest_size_a_ramp_goes_on_no_flatter() -> None:
    curve = a_curve({1: 1.0, 4: 1.0, 5: 2.0}, context_tokens=(100,))
    assert ramp(curve, 4, 5, 7) == pytest.approx([1.0, 2.0, 4.0])


def test_steps_per_second_is_the_inverse() -> None:
    assert sps(STAIRS, sessions=1, batch_tokens=4, context_tokens=100) == 0.5


def test_a_curve_knows_its_reach() -> None:
    assert (contexts_of(STAIRS), max_sessions_of(STAIRS)) == ((100, 200), 3)


def test_a_peer_s_curve_that_falls_is_read_as_monotone() -> None:
    curve = Curve(version="v", device="d", points=(point(3.0), point(1.0, tokens=2)))
    assert seconds(curve, 2, context=0) == 3.0


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((), "missing"),
        ((point(1.0),), "too few points"),
        ((point(1.0), point(1.01, tokens=64)), "flat"),
        ((point(1.0), point(float("nan"), tokens=2)), "broken"),
        ((point(1.0), point(-1.0, tokens=2)), "broken"),
        ((point(1.0), point(2.0, tokens=0)), "broken"),
    ],
)
def test_an_unusable_curve_says_why(points: tuple[CurvePoint, ...], said: str) -> None:
    problem = curve_problem(Curve(version="v", device="d", points=points))
    assert problem is not None
    assert problem.startswith(said)


def test_no_curve_is_missing_and_a_good_one_has_no_problem() -> None:
    assert str(curve_problem(None)).startswith("missing")
    assert curve_problem(STAIRS) is None


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    samples = draw(
        st.lists(
            st.builds(
                CurvePoint,
                context_tokens=st.sampled_from([16, 64, 256]),
                sessions=st.sampled_from([1, 2, 5]),
                batch_tokens=st.integers(1, 40),
                step_s=st.floats(1e-4, 1.0),
            ),
            min_size=1,
            max_size=30,
        )
    )
    return make_curve("v", "d", samples)


@given(curves(), st.integers(1, 9), st.floats(0, 1000))
def test_cost_is_positive_and_monotone_everywhere(
    curve: Curve, sessions: int, context_tokens: float
) -> None:
    cost = steps_seconds(
        curve, sessions=sessions, batch_tokens=np.arange(1, 80), context_tokens=context_tokens
    )
    assert (cost > 0).all()
    assert (np.diff(cost) >= -1e-12).all()


@given(curves())
def test_a_measured_point_is_looked_up_exactly(curve: Curve) -> None:
    for p in curve.points:
        cost = seconds(curve, p.batch_tokens, p.sessions, p.context_tokens)
        assert cost == pytest.approx(p.step_s)


@given(
    st.dictionaries(st.integers(1, 60), st.floats(0.1, 100), min_size=1, max_size=8),
    st.integers(1, 8),
    st.floats(0, 400),
)
def test_a_ramp_is_convex_and_never_above_the_stairs(
    costs: dict[int, float], sessions: int, context: float
) -> None:
    curve = a_curve(costs, sessions=(1, 4), context_tokens=(64, 256))
    tokens = np.arange(1, max(costs) + 1)
    stairs = steps_seconds(curve, sessions=sessions, batch_tokens=tokens, context_tokens=context)
    below = np.array(ramp(curve, *tokens.tolist(), sessions=sessions, context=context))
    assert (below <= stairs * (1 + 1e-9)).all()
    assert (np.diff(below, 2) >= -1e-9 * stairs.max()).all()
