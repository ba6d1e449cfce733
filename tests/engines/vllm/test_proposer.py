import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dspark.core.curve import Curve, CurvePoint
from dspark.engines.vllm.proposer import read_curve, read_settings


def test_settings_are_read_from_vllms_additional_config() -> None:
    settings = read_settings({"dspark": {"drafter": "d", "drafters": ["h:1", "h:2"]}, "else": 1})
    assert settings.drafters == ("h:1", "h:2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs its settings"),
        ({"dspark": {"drafter": "d"}}, "either drafters .* neither is"),
        (
            {"dspark": {"drafter": "d", "drafters": ["h:1"], "controller": "c:1"}},
            "either drafters .* both are",
        ),
        ({"dspark": {"drafter": "d", "drafter_s": []}}, "unknown key; did you mean 'drafter"),
    ],
)
def test_wrong_settings_end_in_one_line(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_settings(given)


def test_a_curve_is_read_and_a_useless_one_refused(tmp_path: Path) -> None:
    points = tuple(
        CurvePoint(context_tokens=0, sessions=1, batch_tokens=size, step_s=size / 100)
        for size in (1, 8)
    )
    curve = Curve(version="v", device="here", points=points)
    file = tmp_path / "curve.json"
    file.write_text(json.dumps(asdict(curve)))
    assert read_curve(file) == curve
    file.write_text(json.dumps(asdict(Curve(version="v", device="here", points=points[:1]))))
    with pytest.raises(ValueError, match="too few points"):
        read_curve(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="dspark profile --json"):
        read_curve(file)
    with pytest.raises(ValueError, match="No such file"):
        read_curve(tmp_path / "none.json")
