"""Forecasts: what the curves say a round takes, against what it took.  Pure.

Budgets rest on the curves as live steps refine them (`core.refinement`), so a bench that shows a
gain also shows how far they were right, and how far the whole is from the bound: the same sessions
and tokens a round, in rounds that take what the profiled curves say and nothing more.  The numbers
are those of the verifiers' reports of about a second each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dspark.core.cohorts import COHORTS, Cohorts, cycle_seconds
from dspark.core.curve import Curve, curve_problem, draft_seconds, step_seconds
from dspark.core.fleet import Fleet, LoadReport, Replica, Role
from dspark.core.refinement import refine

_MIN_STEPS = 3  # in a report, before it says anything about a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One verifier's report.

    Attributes:
        arm: Which ran.
        load: Under which load.
        replica: Whose report it is.
        busy_share: Of the window, spent in verify steps; the rest is bubble.
        bound_tokens_per_s: All active sessions, with the same tokens a round, if it took exactly
            what the profiled curves say of drafting and verifying, in one cohort or two, whichever
            is faster.
        step_s: Measured mean of a step with all that the loop does around it, waiting left out.
        forecast_step_s: The same by the verifier's refined curve.
        schedule_s: Of it, deciding and bookkeeping.
        draft_s: Measured round trip of a draft; None without drafts.
        forecast_draft_s: The same by the drafter's curve, which knows neither queues nor wires.
        hidden_share: Of a draft's round trip, in which the verifier did not wait.
    """

    arm: str
    load: str
    replica: str
    busy_share: float
    bound_tokens_per_s: float
    step_s: float
    forecast_step_s: float
    schedule_s: float = 0.0
    draft_s: float | None = None
    forecast_draft_s: float | None = None
    hidden_share: float | None = None


def read_samples(fleet: Fleet, *, arm: str, load: str) -> list[Sample]:
    """Return a sample of every verifier that was at work and has a curve."""
    drafter = next((m.replica for m in fleet.ready(Role.DRAFTER) if _usable(m.replica)), None)
    return [
        _sample(member.replica, member.load, drafter, arm, load)
        for member in fleet.ready(Role.VERIFIER)
        if member.load is not None
        and member.load.steps >= _MIN_STEPS
        and member.load.batch_tokens >= member.load.steps
        and _usable(member.replica)
    ]


def describe(samples: Sequence[Sample]) -> list[str]:
    """Say in a line each how far the curves were right; nothing without samples."""
    if not samples:
        return []
    steps = [sample.forecast_step_s / sample.step_s for sample in samples]
    rounds = _round_ratios(samples)
    said = f"{median(rounds):.2f} ({len(rounds)} reports)" if rounds else "- (no drafts)"
    return [
        f"A verify step was forecast at {median(steps):.2f} of its measured time (median of "
        f"{len(steps)} reports), a step with its draft at {said}.",
        f"The scheduler took {1e3 * median(s.schedule_s for s in samples):.2f} ms of a step.",
    ]


def bounds_of(samples: Sequence[Sample]) -> dict[tuple[str, str], float]:
    """Return the bound in tokens/s of all verifiers by (load, arm)."""
    by_replica: dict[tuple[str, str], dict[str, list[float]]] = {}
    for sample in samples:
        replicas = by_replica.setdefault((sample.load, sample.arm), {})
        replicas.setdefault(sample.replica, []).append(sample.bound_tokens_per_s)
    return {
        key: sum(median(bounds) for bounds in replicas.values())
        for key, replicas in by_replica.items()
    }


def summarise_samples(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """Return medians for every (load, arm) that has samples."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.load, sample.arm), []).append(sample)
    return [
        {
            "load": load,
            "arm": arm,
            "reports": len(own),
            "verifier_busy_share": round(median(s.busy_share for s in own), 4),
            "verifier_bubble_share": round(1.0 - median(s.busy_share for s in own), 4),
            "hidden_draft_share": _rounded_median(
                [s.hidden_share for s in own if s.hidden_share is not None]
            ),
            "bound_tokens_per_s": round(bounds_of(own)[load, arm], 4),
            "step_ms": round(1e3 * median(s.step_s for s in own), 3),
            "schedule_ms": round(1e3 * median(s.schedule_s for s in own), 3),
            "forecast_over_measured_step": round(
                median(s.forecast_step_s / s.step_s for s in own), 4
            ),
            "forecast_over_measured_round": _rounded_median(_round_ratios(own)),
        }
        for (load, arm), own in groups.items()
    ]


def _sample(
    replica: Replica, report: LoadReport, drafter: Replica | None, arm: str, load: str
) -> Sample:
    profiled = replica.curve
    assert profiled is not None
    sessions = max(round(report.session_steps / report.steps), 1)
    # Drafts in most steps, or the step is not one of a round that drafts.
    drafts = drafter is not None and 2 * report.drafted_steps >= report.steps
    each = report.batch_tokens / max(report.session_steps, 1)

    def verify_s(curve: Curve, count: int, batch_tokens: int) -> float:
        return step_seconds(
            curve,
            sessions=count,
            batch_tokens=batch_tokens,
            context_tokens=report.mean_context_tokens,
        )

    def turn_s(cohorts: Cohorts) -> float:
        """All active sessions complete a round."""
        count = -(-max(report.active_sessions, sessions) // cohorts)
        return cycle_seconds(
            cohorts,
            verify_s=verify_s(profiled, count, max(round(count * each), count)),
            draft_s=_draft_seconds(drafter, replica, count) if drafts else 0.0,
            round_trip_s=0.0,
        )

    fastest_s = min(turn_s(cohorts) for cohorts in (COHORTS if drafts else COHORTS[:1]))
    committed = report.committed_tokens / max(report.session_steps, 1)
    draft_s = _draft_seconds(drafter, replica, sessions) if drafts else 0.0
    waited_s = max(0.0, report.window_s - report.turn_s) / report.steps
    round_s = report.draft_round_s
    return Sample(
        arm=arm,
        load=load,
        replica=replica.name,
        busy_share=report.busy_share,
        bound_tokens_per_s=max(report.active_sessions, sessions) * committed / fastest_s,
        step_s=report.turn_s / report.steps,
        schedule_s=report.schedule_s / report.steps,
        forecast_step_s=verify_s(
            refine(profiled, report.step_cells),
            sessions,
            round(report.batch_tokens / report.steps),
        ),
        draft_s=round_s if drafts else None,
        forecast_draft_s=draft_s if drafts else None,
        hidden_share=max(0.0, 1.0 - waited_s / round_s) if drafts and round_s > 0 else None,
    )


def _draft_seconds(drafter: Replica | None, verifier: Replica, sessions: int) -> float:
    assert drafter is not None
    assert drafter.curve is not None
    return draft_seconds(
        drafter.curve, sessions=sessions, block_size=verifier.compatibility.block_size
    )


def _round_ratios(samples: Sequence[Sample]) -> list[float]:
    """Return forecast over measured seconds of rounds, by report.

    The forecast is the planner's: both curves, and what the round before spent elsewhere.
    """
    elsewhere_s: dict[tuple[str, str, str], float] = {}
    ratios = []
    for sample in samples:
        if sample.draft_s is None or sample.forecast_draft_s is None:
            continue
        key = (sample.load, sample.arm, sample.replica)
        if key in elsewhere_s:
            forecast_s = sample.forecast_step_s + sample.forecast_draft_s + elsewhere_s[key]
            ratios.append(forecast_s / (sample.step_s + sample.draft_s))
        elsewhere_s[key] = max(0.0, sample.draft_s - sample.forecast_draft_s)
    return ratios


def _rounded_median(values: Sequence[float]) -> float | None:
    return round(median(values), 4) if values else None


def _usable(replica: Replica) -> bool:
    return curve_problem(replica.curve) is None
