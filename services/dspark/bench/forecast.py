"""Forecasts: what the curves say a round takes, against what it took.  Pure.

Budgets rest on the curves as live steps refine them (`core.refinement`), so a bench that shows a
gain also shows how far they were right, and how far the whole is from the bound: the same tokens a
step, in rounds that take what the profiled curves say and nothing more.  The numbers are those of
the verifiers' reports of about a second each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from dspark.core.cohorts import COHORTS, cycle_seconds
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
        bound_tokens_per_s: The same tokens a step, if a round took exactly what the profiled curves
            say of drafting and verifying, in one cohort or two, whichever is faster.
        step_s: Measured mean of a step with all that the loop does around it, waiting left out.
        forecast_step_s: The same by the verifier's refined curve.
        schedule_s: Of it, deciding and bookkeeping.
        draft_s: Measured round trip of a draft; None without drafts.
        forecast_draft_s: The same by the drafter's curve, which knows no transport.
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
    rounds = [ratio for sample in samples if (ratio := _round_ratio(sample)) is not None]
    said = f"{median(rounds):.2f} ({len(rounds)} reports)" if rounds else "- (no drafts)"
    return [
        f"A verify step was forecast at {median(steps):.2f} of its measured time (median of "
        f"{len(steps)} reports), a step with its draft at {said}.",
        f"The scheduler took {1e3 * median(s.schedule_s for s in samples):.2f} ms of a step; "
        f"verifiers were busy {_by_load(samples, lambda s: s.busy_share)} of the time, and hid "
        f"{_by_load(samples, lambda s: s.hidden_share)} of drafting behind it.",
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
            "hidden_draft_share": _rounded_median(
                [s.hidden_share for s in own if s.hidden_share is not None]
            ),
            "bound_tokens_per_s": round(bounds_of(own)[load, arm], 4),
            "step_ms": round(1e3 * median(s.step_s for s in own), 3),
            "schedule_ms": round(1e3 * median(s.schedule_s for s in own), 3),
            "forecast_over_measured_step": round(
                median(s.forecast_step_s / s.step_s for s in own), 4
            ),
            "forecast_over_measured_round": _rounded_median(
                [ratio for s in own if (ratio := _round_ratio(s)) is not None]
            ),
        }
        for (load, arm), own in groups.items()
    ]


def _sample(
    replica: Replica, report: LoadReport, drafter: Replica | None, arm: str, load: str
) -> Sample:
    assert replica.curve is not None
    batch_tokens = round(report.batch_tokens / report.steps)
    sessions = max(round(report.session_steps / report.steps), 1)
    # Drafts in most steps, or the step is not one of a round that drafts.
    drafts = drafter is not None and 2 * report.drafted_steps >= report.steps

    def verify_s(curve: Curve) -> float:
        return step_seconds(
            curve,
            sessions=sessions,
            batch_tokens=batch_tokens,
            context_tokens=report.mean_context_tokens,
        )

    draft_s = _draft_seconds(drafter, replica, sessions) if drafts else 0.0
    turns_s = [
        cycle_seconds(cohorts, verify_s=verify_s(replica.curve), draft_s=draft_s, round_trip_s=0.0)
        / cohorts
        for cohorts in (COHORTS if drafts else COHORTS[:1])
    ]
    waited_s = max(0.0, report.window_s - report.turn_s) / report.steps
    round_s = report.draft_round_s
    return Sample(
        arm=arm,
        load=load,
        replica=replica.name,
        busy_share=report.busy_share,
        bound_tokens_per_s=report.committed_tokens / report.steps / min(turns_s),
        step_s=report.turn_s / report.steps,
        schedule_s=report.schedule_s / report.steps,
        forecast_step_s=verify_s(refine(replica.curve, report.step_cells)),
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


def _round_ratio(sample: Sample) -> float | None:
    if sample.draft_s is None or sample.forecast_draft_s is None:
        return None
    return (sample.forecast_step_s + sample.forecast_draft_s) / (sample.step_s + sample.draft_s)


def _by_load(samples: Sequence[Sample], share: Callable[[Sample], float | None]) -> str:
    """Return the median of a share at each load, of arms that drafted."""
    loads: dict[str, list[float]] = {}
    for sample in samples:
        value = share(sample)
        if sample.draft_s is not None and value is not None:
            loads.setdefault(sample.load, []).append(value)
    return ", ".join(f"{median(own):.0%} at {load}" for load, own in loads.items()) or "-"


def _rounded_median(values: Sequence[float]) -> float | None:
    return round(median(values), 4) if values else None


def _usable(replica: Replica) -> bool:
    return curve_problem(replica.curve) is None
