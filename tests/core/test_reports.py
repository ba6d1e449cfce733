from dataclasses import replace
from typing import Any

import pytest

from dspark.core.refinement import StepCell
from dspark.core.reports import MAX_CELLS, report_problem
from tests.fleet_examples import a_report


def a_cell(*, sessions: int = 2, steps: float = 9.0, ratio: float = 1.5) -> StepCell:
    return StepCell(sessions=sessions, batch_tokens=8, steps=steps, ratio=ratio)


GOOD = replace(
    a_report("v0", active=2, survivals=[(0.9, 0.5), (1.0,)], draft_round_s=0.01),
    steps=10,
    drafted_steps=8,
    committed_tokens=20,
    verified_draft_tokens=20,
    accepted_draft_tokens=12,
    free_pages=3,
    total_pages=8,
    busy_share=1.0,
    step_cells=(a_cell(),),
)


def test_a_plausible_report_is_believed() -> None:
    assert report_problem(GOOD, block_size=3) is None


def by_position(
    judged: tuple[int, ...], accepted: tuple[int, ...], stated: tuple[float, ...]
) -> dict[str, Any]:
    return {
        "judged_by_position": judged,
        "accepted_by_position": accepted,
        "confidence_by_position": stated,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step_s": float("nan")}, "step_s is nan"),
        ({"draft_round_s": float("inf")}, "draft_round_s is inf"),
        ({"window_s": -1.0}, "window_s is -1.0"),
        ({"waiting_sessions": 2**32}, "no replica has so many"),
        ({"queue_s": 1e9}, "queue_s is 1000000000.0"),
        ({"busy_share": 3.0}, "more than all of the window"),
        ({"free_pages": 9}, "9 of 8 pages are free"),
        ({"accepted_draft_tokens": 21}, "21 drafts accepted, but 20 verified"),
        ({"drafted_steps": 9999}, "9999 drafted rounds"),
        ({"budget_epoch": 2**63}, "budget_epoch"),
        ({"survivals": ((0.5, 0.6),)}, "do not fall"),
        ({"survivals": ((1.5,),)}, "do not fall"),
        ({"survivals": ((-0.1,),)}, "do not fall"),
        ({"survivals": ((float("nan"),),)}, "do not fall"),
        ({"survivals": ((0.9, 0.8, 0.7, 0.6),)}, "4 values, not 1..3"),
        ({"survivals": ((),)}, "0 values, not 1..3"),
        ({"judged_by_position": (3,)}, "1, 0 and 0 values"),
        (by_position((9,) * 4, (1,) * 4, (1.0,) * 4), "4, 4 and 4 values"),
        (by_position((3,), (4,), (1.0,)), "of 3 drafts judged 4 were accepted"),
        (by_position((3,), (1,), (3.5,)), "confidences of 3.5 in all"),
        (by_position((3,), (1,), (float("nan"),)), "confidences of nan in all"),
        ({"step_cells": (a_cell(ratio=9.0),)}, "have ratio 9.0"),
        ({"step_cells": (a_cell(ratio=float("nan")),)}, "have ratio nan"),
        ({"step_cells": (a_cell(steps=-1.0),)}, "-1.0 steps"),
        ({"step_cells": (a_cell(sessions=9),)}, "8 tokens have 9 sessions"),
        ({"step_cells": (a_cell(sessions=0),)}, "8 tokens have 0 sessions"),
        ({"step_cells": (a_cell(),) * (MAX_CELLS + 1)}, "257 sizes, more than 256"),
    ],
)
def test_an_absurd_report_is_rejected_with_its_reason(change: dict[str, Any], said: str) -> None:
    assert said in str(report_problem(replace(GOOD, **change), block_size=3))


def test_single_precision_on_the_wire_is_forgiven() -> None:
    assert report_problem(replace(GOOD, survivals=((0.5, 0.5000001),)), block_size=3) is None
