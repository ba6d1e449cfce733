from dataclasses import dataclass
from pathlib import Path

import pytest

from dspark.cli.train import _settings


@dataclass(frozen=True)
class Stage:
    work: Path
    steps: int = 10
    layers: tuple[int, ...] = (1,)
    text: Path | None = None


def test_overrides_of_the_stage_win_and_those_of_others_are_left() -> None:
    overrides = ["drafter.steps=3", "drafter.layers=[1, 2]", "target.steps=9", "drafter.text=a/b"]
    made = _settings(Stage, "drafter", {"work": Path("w")}, overrides)
    assert made == Stage(work=Path("w"), steps=3, layers=(1, 2), text=Path("a/b"))


@pytest.mark.parametrize("override", ["steps=3", "drafter.steps"])
def test_a_malformed_override_says_what_is_expected(override: str) -> None:
    with pytest.raises(ValueError, match=r"expected STAGE\.FIELD=VALUE"):
        _settings(Stage, "drafter", {"work": Path("w")}, [override])


def test_an_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="drafter knows layers, steps, text, work"):
        _settings(Stage, "drafter", {"work": Path("w")}, ["drafter.stepz=3"])
