from pathlib import Path

import pytest

from dspark.bench.plot import draw, make_lines
from dspark.bench.summary import summarise
from tests.bench.examples import at_speed


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
