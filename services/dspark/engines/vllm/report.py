"""The load report of a vLLM replica: what its engine did since the last one."""

from collections.abc import Mapping
from dataclasses import replace

from dspark.core.fleet import LoadReport, ReplicaState
from dspark.core.ids import Epoch, Incarnation, ReplicaName, Term
from dspark.core.observed import Observation
from dspark.core.refinement import StepCell
from dspark.engines.vllm.notes import StepNote
from dspark.engines.vllm.port import Capacity, Gauges
from dspark.verifier.window import LoadWindow


def report_load(
    window: LoadWindow,
    observed: list[tuple[str, Observation]],
    *,
    replica: ReplicaName,
    incarnation: Incarnation,
    state: ReplicaState,
    now_s: float,
    num_open: int,
    gauges: Gauges,
    capacity: Capacity,
    last: StepNote | None,
    fates: Mapping[str, int],
    moved: Mapping[str, int],
    cells: tuple[StepCell, ...],
) -> LoadReport:
    """Take the window and return it as a report, which begins a new window.

    Args:
        window: Of the engine's steps.
        observed: What was taken of it before.
        replica: The process.
        incarnation: Of that process.
        state: Of that process.
        now_s: The window's clock.
        num_open: Generations submitted and not ended.
        gauges: What the scheduler said last; it says nothing while nothing runs.
        capacity: What fits.
        last: The newest step; None before the first.
        fates: Drafts of the window by what became of them.
        moved: Bytes of the window by kind.
        cells: How live steps compare with the curve.
    """
    waiting = min(gauges.waiting, num_open)
    used = gauges.kv_usage if num_open else 0.0
    return replace(
        window.report(observed, replica=replica, incarnation=incarnation, state=state, now_s=now_s),
        active_sessions=num_open - waiting,
        waiting_sessions=waiting,
        free_pages=round((1 - used) * capacity.num_blocks),
        total_pages=capacity.num_blocks,
        budget_epoch=None if last is None or not last.epoch else Epoch(last.epoch),
        budget_term=None if last is None or not last.term else Term(last.term),
        draft_outcomes=fates,
        wire_bytes=moved,
        draft_round_s=0.0 if last is None else last.round_trip_s,
        connected_drafters=0 if last is None else last.drafters,
        step_cells=cells,
    )
