import json
from pathlib import Path

import pytest

from dspark.core.sampling import Sampling, SamplingMode
from dspark.model.sts import Calibration, identity, read_calibration


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    assert read_calibration(tmp_path, 2) == identity(2)


def test_both_modes_are_read_and_an_absent_one_is_neutral(tmp_path: Path) -> None:
    (tmp_path / "sts.json").write_text(json.dumps({"greedy": {"temperatures": [1.5, 2]}}))
    assert read_calibration(tmp_path, 2) == Calibration(greedy=(1.5, 2.0), coupled=(1.0, 1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"greedy": {"temperatures": [1]}}', "1 temperatures for mode greedy but .* 2"),
        ('{"coupled": {"temperatures": [1, 0]}}', "must be above 0"),
        ('{"coupled": {}}', "no calibration file"),
        ("nonsense", "no calibration file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sts.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_calibration(tmp_path, 2)


def test_rejection_falls_back_to_coupled() -> None:
    rejection = Sampling(temperature=1.0, mode=SamplingMode.REJECTION)
    found = Calibration(greedy=(1.0,), coupled=(2.0,))
    assert found.of(rejection) == found.of(Sampling(temperature=1.0)) == (2.0,)
    own = Calibration(greedy=(1.0,), coupled=(2.0,), rejection=(3.0,))
    assert own.of(rejection) == (3.0,)
    assert own.of(Sampling(mode=SamplingMode.REJECTION)) == (1.0,)  # greedy has no mode
