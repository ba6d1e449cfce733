from dataclasses import replace

import pytest

from dspark.bench.arms import Topology, across, parse_arm
from dspark.bench.measures import Measures
from dspark.bench.record import CellRecord
from dspark.bench.summary import Figure, summarise
from tests.bench.examples import at_speed


def speed(measures: Measures) -> float | None:
    return measures.tokens_per_s


def test_ratios_are_taken_within_a_repeat_before_the_median() -> None:
    # The machine slows down tenfold: medians of speeds would say anything, ratios do not.
    records = [
        at_speed(arm, base * factor, repeat=repeat)
        for repeat, base in enumerate((100.0, 10.0, 1.0))
        for arm, factor in (("off", 1.0), ("adaptive", 2.0 + repeat))
    ]
    off, adaptive = summarise(records)
    assert adaptive.ratio_to_off is not None
    assert adaptive.ratio_to_off.median == pytest.approx(3.0)
    assert (adaptive.ratio_to_off.low, adaptive.ratio_to_off.high) == pytest.approx((2.0, 4.0))
    assert off.ratio_to_off == Figure(median=1.0, low=1.0, high=1.0)


def test_a_figure_has_its_spread() -> None:
    (summary,) = summarise([at_speed("off", value, repeat=int(value)) for value in (8, 10, 12)])
    figure = summary.figure(speed)
    assert figure is not None
    assert figure.median == pytest.approx(10.0)
    assert figure.spread == pytest.approx(0.2)


def test_rows_are_grouped_by_load_and_keep_the_order_of_their_arms() -> None:
    records = [
        at_speed(arm, 1.0, load=load)
        for load, arms in ((1, ("off", "adaptive")), (8, ("adaptive", "off")))
        for arm in arms
    ]
    rows = [(summary.load.label, summary.arm.name) for summary in summarise(records)]
    assert rows == [("1", "off"), ("1", "adaptive"), ("8", "off"), ("8", "adaptive")]


def test_adaptive_is_held_against_the_best_fixed_length() -> None:
    speeds = {"off": 1.0, "fixed:2": 4.0, "fixed:7": 2.0, "adaptive": 3.0}
    *_, adaptive = summarise([at_speed(arm, value) for arm, value in speeds.items()])
    assert adaptive.best_fixed == "fixed:2"
    assert adaptive.ratio_to_best_fixed is not None
    assert adaptive.ratio_to_best_fixed.median == pytest.approx(0.75)


def test_a_cell_whose_off_arm_never_ran_has_no_ratio() -> None:
    records = [
        at_speed("off", 1.0, repeat=0),
        at_speed("adaptive", 2.0, repeat=0),
        at_speed("adaptive", 9.0, repeat=1),
    ]
    _, adaptive = summarise(records)
    assert adaptive.ratio_to_off is not None
    assert adaptive.ratio_to_off.high == pytest.approx(2.0)
    assert adaptive.compared == 1


def test_outputs_are_compared_with_off_in_every_repeat() -> None:
    records = [
        at_speed(arm, 1.0, repeat=repeat, text=text)
        for repeat in range(2)
        for arm, text in (("off", "same"), ("adaptive", "same" if repeat else "other"))
    ]
    off, adaptive = summarise(records)
    assert (adaptive.compared, adaptive.differing) == (2, 1)
    assert off.compared == 0


def test_nothing_ran_and_nothing_is_summarised() -> None:
    assert summarise([]) == ()


def test_adaptive_is_held_against_fixed_lengths_of_its_own_topology() -> None:
    def record(arm: str, speed: float, topology: Topology) -> CellRecord:
        (placed,) = across((parse_arm(arm),), (topology,))
        ended = at_speed(arm, speed)
        return replace(ended, cell=replace(ended.cell, arm=placed))

    *_, adaptive = summarise(
        [
            record("fixed:2", 9.0, "disaggregated"),
            record("fixed:7", 2.0, "colocated"),
            record("adaptive", 3.0, "colocated"),
        ]
    )
    assert adaptive.best_fixed == "fixed:7@colocated"
