"""The load report: what an engine did since the last one."""

from dspark.core.fleet import LoadReport, ReplicaState
from dspark.core.ids import Incarnation, ReplicaName
from dspark.verifier.engine import VerifierEngine


def report_load(
    engine: VerifierEngine,
    *,
    replica: ReplicaName,
    incarnation: Incarnation,
    state: ReplicaState,
    now_s: float,
) -> LoadReport:
    """Take the engine's window and return it as a report, which begins a new window.

    Args:
        engine: Whose.
        replica: Its process.
        incarnation: Of that process.
        state: Of that process.
        now_s: The engine's clock.
    """
    sums, survivals, window_s = engine.window.take(now_s)
    desk, guard, intake = engine.desk, engine.guard, engine.intake
    return LoadReport(
        replica=replica,
        incarnation=incarnation,
        state=state,
        window_s=window_s,
        active_sessions=engine.num_open - intake.num_waiting,
        waiting_sessions=intake.num_waiting,
        free_pages=intake.pages.free_pages,
        total_pages=intake.pages.num_pages,
        busy_share=min(1.0, sums.step_s / max(1e-6, window_s)),
        steps=sums.steps,
        batch_tokens=sums.batch_tokens,
        committed_tokens=sums.committed_tokens,
        drafted_steps=sums.drafted_steps,
        accepted_draft_tokens=sums.accepted_draft_tokens,
        verified_draft_tokens=sums.verified_draft_tokens,
        step_s=sums.step_s,
        survivals=survivals,
        prompt_tokens=sums.prompt_tokens,
        session_steps=sums.session_steps,
        mean_context_tokens=sums.context_tokens / max(1, sums.session_steps),
        draft_round_s=0.0 if desk is None else desk.round_trip_s,
        connected_drafters=0 if desk is None else desk.num_drafters,
        turn_s=sums.turn_s,
        schedule_s=sums.schedule_s,
        step_cells=() if engine.refinement is None else engine.refinement.cells,
        guard_checks=0 if guard is None else guard.checks,
        guard_violations=0 if guard is None else guard.violations,
        guard_tripped=guard is not None and guard.tripped,
    )
