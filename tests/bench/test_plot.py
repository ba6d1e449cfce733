from pathlib import Path

import pytest

from dspark.bench.plot import draw, make_budget_lines, make_lines
from dspark.bench.record import Counts
from dspark.bench.summary import summarise
from tests.bench.examples import a_cell, a_record, at_speed, served


def test_a_line_of_an_arm_goes_through_its_loads() -> None:
    records = [at_speed("off", 10.0, load=1), at_speed("off", 8.0, load=4)]
    (points,) = make_lines(summarise(records)).values()
    assert [point[2] for point in points] == ["1", "4"]
    assert [point[1] for point in points] == pytest.approx([10.0, 8.0])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = [at_speed(arm, 10.0) for arm in ("off", "adaptive")]
    draw(summarise(records), tmp_path / "bench.svg", title="demo")
    assert "adaptive" in (tmp_path / "bench.svg").read_text()


def test_the_budget_is_what_a_sessions_step_verifies() -> None:
    counts = Counts(steps=4, drafted_steps=3, verified_tokens=18)
    records = [
        a_record(a_cell(arm, load=load), served((1.0, 2), counts=counts), whole_until_s=1.0)
        for arm in ("off", "adaptive")
        for load in (1, 4)
    ]
    lines = make_budget_lines(summarise(records))
    assert lines == {"adaptive": [("1", 4.5), ("4", 4.5)]}
