"""Reports: which of them can be believed.

A report steers budgets of a whole pool, so one that cannot be true is rejected as a whole and
counted; the replica stays in the fleet, since it is alive.
"""

import math
from dataclasses import fields

from dspark.core.fleet import LoadReport
from dspark.core.refinement import MAX_RATIO, StepCell

MAX_VECTORS = 64
"""Survival vectors taken from one report, the newest: no report outweighs the others."""

MAX_CELLS = 256
"""Sizes of steps in one report; a verifier meets fewer."""

MAX_SESSIONS = 1_000_000
"""No replica has more; pools are scaled by them."""

MAX_QUEUE_S = 600.0
"""No draft is waited for that long."""

MAX_EPOCH = 2**53
"""No controller lives long enough to issue more budgets."""

_SLACK = 1e-3  # floats crossed the wire in single precision


def report_problem(report: LoadReport, *, block_size: int) -> str | None:
    """Say in one sentence why a report cannot be true, or return None.

    Args:
        report: As received.
        block_size: gamma of the fleet: no survival vector is longer.
    """
    for field in fields(report):
        value = getattr(report, field.name)
        if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
            return f"{field.name} is {value}"
    if report.busy_share > 1.0 + 0.05:
        return f"busy_share is {report.busy_share}: more than all of the window"
    for name in ("active_sessions", "waiting_sessions"):
        if getattr(report, name) > MAX_SESSIONS:
            return f"{name} is {getattr(report, name)}: no replica has so many"
    if report.queue_s > MAX_QUEUE_S:
        return f"queue_s is {report.queue_s}: rounds are given up long before"
    if report.free_pages > report.total_pages:
        return f"{report.free_pages} of {report.total_pages} pages are free"
    if report.accepted_draft_tokens > report.verified_draft_tokens:
        return (
            f"{report.accepted_draft_tokens} drafts accepted, "
            f"but {report.verified_draft_tokens} verified"
        )
    if report.drafted_steps > report.committed_tokens:
        # Every session round commits at least the target's own token.
        return (
            f"{report.drafted_steps} drafted rounds, but {report.committed_tokens} committed tokens"
        )
    if report.budget_epoch is not None and report.budget_epoch > MAX_EPOCH:
        return f"budget_epoch is {report.budget_epoch}"
    if report.budget_term is not None and report.budget_term > MAX_EPOCH:
        return f"budget_term is {report.budget_term}"
    problem = _positions_problem(report, block_size)
    if problem is not None:
        return problem
    for vector in report.survivals:
        problem = _vector_problem(vector, block_size)
        if problem is not None:
            return problem
    return _cells_problem(report.step_cells)


def _cells_problem(cells: tuple[StepCell, ...]) -> str | None:
    if len(cells) > MAX_CELLS:
        return f"step_cells has {len(cells)} sizes, more than {MAX_CELLS}"
    for cell in cells:
        within = 1 / MAX_RATIO - _SLACK <= cell.ratio <= MAX_RATIO + _SLACK
        if not (within and math.isfinite(cell.steps) and cell.steps > 0):
            return f"{cell.steps} steps of {cell.batch_tokens} tokens have ratio {cell.ratio}"
        if not 1 <= cell.sessions <= cell.batch_tokens:
            return f"steps of {cell.batch_tokens} tokens have {cell.sessions} sessions"
    return None


def _positions_problem(report: LoadReport, block_size: int) -> str | None:
    judged, accepted = report.judged_by_position, report.accepted_by_position
    stated = report.confidence_by_position
    if not len(judged) == len(accepted) == len(stated) <= block_size:
        return f"by position there are {len(judged)}, {len(accepted)} and {len(stated)} values"
    for j, a, c in zip(judged, accepted, stated, strict=True):
        if a > j or not -_SLACK <= c <= j * (1 + _SLACK):
            return f"of {j} drafts judged {a} were accepted, with confidences of {c} in all"
    return None


def _vector_problem(vector: tuple[float, ...], block_size: int) -> str | None:
    if not vector or len(vector) > block_size:
        return f"a survival vector has {len(vector)} values, not 1..{block_size}"
    before = 1.0
    for value in vector:
        if not 0.0 <= value <= before + _SLACK:
            return f"survivals {tuple(round(a, 3) for a in vector)} do not fall from 1 to 0"
        before = value
    return None
