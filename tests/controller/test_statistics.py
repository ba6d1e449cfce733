from dataclasses import replace

import numpy as np
import pytest

from dspark.controller.statistics import Statistics
from tests.fleet_examples import a_curve, a_replica, a_report

KEY = ("verifier", "curve")


def test_a_class_s_curve_is_the_median_of_its_replicas() -> None:
    statistics = Statistics(16)
    replicas = [
        a_replica(f"v{i}", curve=a_curve({1: step_s, 9: 10.0 + step_s}))
        for i, step_s in enumerate((1.0, 2.0, 9.0))
    ]
    curve = statistics.curves(replicas)[KEY]
    assert {point.step_s for point in curve.points} == {2.0, 12.0}


def test_an_unusable_curve_does_not_spoil_the_others() -> None:
    good, flat = a_curve({1: 1.0, 9: 5.0}), a_curve({1: 1.0, 9: 1.0})
    replicas = [a_replica("v0", curve=flat), a_replica("v1", curve=good)]
    assert Statistics(16).curves(replicas)[KEY] == good


def test_curves_are_pooled_again_after_a_change() -> None:
    statistics = Statistics(16)
    first = a_replica("v0", curve=a_curve({1: 1.0, 9: 5.0}))
    before = statistics.curves([first])
    assert statistics.curves([first]) is before
    statistics.depart(first)
    assert statistics.curves([]) == before  # remembered
    assert statistics.curves([]) is not before


def test_acceptance_is_pooled_by_pool_and_only_when_something_is_new() -> None:
    statistics = Statistics(16)
    replica = a_replica("v0")
    statistics.add(replica, [(0.5,), (1.0,)])
    first = statistics.acceptance()[replica.pool]
    assert first.expected_tokens(2, np.array([2]))[0] == 3.5
    assert statistics.acceptance()[replica.pool] is first
    statistics.add(replica, [(0.0,)])
    assert statistics.acceptance()[replica.pool].num_vectors == 3


def test_what_was_judged_by_position_is_a_share_and_fades() -> None:
    statistics, pool = Statistics(16), a_replica("v0").pool

    def add(judged: tuple[int, ...], accepted: tuple[int, ...], stated: tuple[float, ...]) -> None:
        report = replace(
            a_report("v0"),
            judged_by_position=judged,
            accepted_by_position=accepted,
            confidence_by_position=stated,
        )
        statistics.add_judged(pool, report)

    add((100, 80), (80, 20), (75.0, 40.0))
    assert statistics.judged_by_position(pool) == [(0.8, 0.75), (0.25, 0.5)]
    add((), (), ())
    add((19, 19, 19), (19, 19, 19), (19.0, 19.0, 19.0))
    assert len(statistics.judged_by_position(pool)) == 2, "19 make no share"
    for _ in range(20):
        add((2000,), (1000,), (1000.0,))
    assert statistics.judged_by_position(pool)[0] == pytest.approx((0.5, 0.5), abs=1e-3)
    assert statistics.judged_by_position(a_replica("x", pool="other").pool) == []
