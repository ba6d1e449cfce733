"""The load report: what an engine did since the last one."""

from collections.abc import Sequence
from dataclasses import replace

from dspark.core.fleet import LoadReport, ReplicaState
from dspark.core.ids import Incarnation, ReplicaName
from dspark.core.observed import Observation
from dspark.verifier.engine import VerifierEngine


def report_load(
    engine: VerifierEngine,
    observed: Sequence[tuple[str, Observation]] = (),
    *,
    replica: ReplicaName,
    incarnation: Incarnation,
    state: ReplicaState,
    now_s: float,
) -> LoadReport:
    """Take the engine's window and return it as a report, which begins a new window.

    Args:
        engine: Whose.
        observed: What was taken of its window before.
        replica: Its process.
        incarnation: Of that process.
        state: Of that process.
        now_s: The engine's clock.
    """
    desk, guard, intake = engine.desk, engine.guard, engine.intake
    return replace(
        engine.window.report(
            observed, replica=replica, incarnation=incarnation, state=state, now_s=now_s
        ),
        active_sessions=engine.num_open - intake.num_waiting,
        waiting_sessions=intake.num_waiting,
        free_pages=intake.pages.free_pages,
        total_pages=intake.pages.num_pages,
        draft_round_s=0.0 if desk is None else desk.round_trip_s,
        connected_drafters=0 if desk is None else desk.num_drafters,
        step_cells=() if engine.refinement is None else engine.refinement.cells,
        guard_checks=0 if guard is None else guard.checks,
        guard_violations=0 if guard is None else guard.violations,
        guard_tripped=guard is not None and guard.tripped,
    )
