import json
import logging
from pathlib import Path

import pytest

from dspark.core.curve import Curve
from dspark.model.curve_cache import cached_curve
from tests.fleet_examples import a_curve

CURVE = a_curve({1: 0.010, 4: 0.020, 8: 0.030})


class Bench:
    """Counts how often it was asked to measure."""

    def __init__(self) -> None:
        self.measured = 0

    def __call__(self) -> Curve:
        self.measured += 1
        return CURVE


def ask(folder: Path | None, bench: Bench, *, sizes: str = "8 sessions") -> Curve:
    return cached_curve(
        None if folder is None else str(folder),
        kind="verifier",
        version=CURVE.version,
        sizes=sizes,
        measure=bench,
    )


def test_a_kept_curve_is_not_measured_again(tmp_path: Path) -> None:
    bench = Bench()
    assert ask(tmp_path / "new", bench) == ask(tmp_path / "new", bench) == CURVE
    assert bench.measured == 1


def test_without_a_folder_it_is_measured_always() -> None:
    bench = Bench()
    ask(None, bench)
    ask(None, bench)
    assert bench.measured == 2


def test_other_sizes_are_measured_anew(tmp_path: Path) -> None:
    bench = Bench()
    ask(tmp_path, bench)
    ask(tmp_path, bench, sizes="16 sessions")
    assert bench.measured == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: kept | {"version": "another"},
        lambda kept: kept | {"points": []},
        lambda kept: kept | {"points": [kept["points"][0] | {"step_s": -1.0}]},
        lambda kept: kept | {"points": [{"sessions": 1}]},
        lambda kept: "no curve",
    ],
)
def test_what_does_not_fit_is_refused_and_measured_anew(
    tmp_path: Path,
    spoil,  # type: ignore[no-untyped-def]
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    ask(tmp_path, bench)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with caplog.at_level(logging.WARNING):
        assert ask(tmp_path, bench) == CURVE
    assert bench.measured == 2
    assert "measured anew" in caplog.text
    assert ask(tmp_path, bench) == CURVE  # what was measured took its place
    assert bench.measured == 2


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert ask(tmp_path / "file", Bench()) == CURVE
    assert "is not kept" in caplog.text
