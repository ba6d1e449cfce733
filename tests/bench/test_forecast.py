from dataclasses import replace

import pytest

from dspark.bench.forecast import bounds_of, describe, read_samples, summarise_samples
from dspark.core.curve import Curve
from dspark.core.fleet import Fleet, Member, Role
from dspark.core.ids import Term
from tests.fleet_examples import a_curve, a_member, a_replica, a_report

CURVE = a_curve({1: 0.010, 4: 0.020, 8: 0.030})


def a_fleet(*, curve: Curve | None = CURVE, steps: int = 10, drafted_steps: int = 20) -> Fleet:
    """Two sessions in steps of four tokens that took 25 ms, with draft rounds of 35 ms."""
    report = replace(
        a_report("v", active=2, draft_round_s=0.035),
        steps=steps,
        batch_tokens=4 * steps,
        committed_tokens=6 * steps,
        window_s=0.039 * steps,
        step_s=0.024 * steps,
        turn_s=0.025 * steps,
        schedule_s=0.0005 * steps,
        busy_share=0.5,
        drafted_steps=drafted_steps,
        session_steps=2 * steps,
        mean_context_tokens=64.0,
    )
    drafter = a_member("d", Role.DRAFTER, curve=a_curve({3: 0.010, 6: 0.028}))
    verifier = Member(replica=a_replica("v", curve=curve), load=report)
    return Fleet(term=Term(1), version=1, members=(verifier, drafter))


def test_a_step_and_its_draft_are_held_against_their_curves() -> None:
    (sample,) = read_samples(a_fleet(), arm="adaptive", load="2")
    assert (sample.step_s, sample.forecast_step_s) == pytest.approx((0.025, 0.020))
    assert (sample.draft_s, sample.forecast_draft_s) == pytest.approx((0.035, 0.028))
    line, spent = describe([sample, replace(sample, draft_s=0.045)])
    assert "forecast at 0.80 of its measured time (median of 2 reports)" in line
    # The first round spent 7 ms beside drafting: (20 + 28 + 7) of 25 + 45 ms.
    assert "with its draft at 0.79 (1 reports)" in line
    assert "took 0.50 ms of a step" in spent


def test_the_bound_is_what_the_profiled_curves_alone_would_take() -> None:
    # One cohort of two: 20 + 28 ms; two of one: max(2 * 20, 2 * 10, 20 + 10) ms.
    (sample,) = read_samples(a_fleet(), arm="adaptive", load="2")
    assert sample.bound_tokens_per_s == pytest.approx(6 / 0.040)
    (plain,) = read_samples(a_fleet(drafted_steps=0), arm="off", load="2")
    assert plain.bound_tokens_per_s == pytest.approx(6 / 0.020)
    other = replace(sample, replica="w", bound_tokens_per_s=100.0)
    assert bounds_of([sample, sample, other, plain]) == pytest.approx(
        {("2", "adaptive"): 6 / 0.040 + 100.0, ("2", "off"): 6 / 0.020}
    )


def test_the_bound_has_all_active_sessions_in_one_round() -> None:
    # Half of them in each step: one cohort of four takes 30 + 28 ms, two of two 2 * 28.
    fleet = a_fleet()
    verifier, drafter = fleet.members
    assert verifier.load is not None
    busy = replace(verifier, load=replace(verifier.load, active_sessions=4))
    (sample,) = read_samples(replace(fleet, members=(busy, drafter)), arm="adaptive", load="4")
    assert sample.bound_tokens_per_s == pytest.approx(4 * 3 / 0.056)


def test_steps_without_drafts_have_no_draft_to_forecast() -> None:
    (sample,) = read_samples(a_fleet(drafted_steps=0), arm="off", load="2")
    assert (sample.draft_s, sample.forecast_draft_s) == (None, None)
    assert "with its draft at - (no drafts)" in describe([sample])[0]


def test_an_idle_verifier_or_one_without_a_curve_says_nothing() -> None:
    assert read_samples(a_fleet(steps=0), arm="off", load="2") == []
    assert read_samples(a_fleet(curve=None), arm="off", load="2") == []
    assert describe([]) == []


def test_reports_are_summed_up_by_load_and_arm() -> None:
    samples = [
        *read_samples(a_fleet(), arm="adaptive", load="2"),
        *read_samples(a_fleet(drafted_steps=0), arm="off", load="2"),
    ]
    adaptive, off = summarise_samples(samples)
    assert adaptive == {
        "load": "2",
        "arm": "adaptive",
        "reports": 1,
        "verifier_busy_share": 0.5,
        "verifier_bubble_share": 0.5,
        "hidden_draft_share": 0.6,
        "bound_tokens_per_s": 150.0,
        "step_ms": 25.0,
        "schedule_ms": 0.5,
        "forecast_over_measured_step": 0.8,
        "forecast_over_measured_round": None,  # the first of them has no round before it
    }
    assert off["forecast_over_measured_round"] is None
