"""Forecasts: what the curves say a round takes, against what it took.  Pure.

Budgets rest on the curves as live steps refine them (`core.refinement`), so a bench that shows a
gain also shows how far they were right.  The
numbers are those of the replicas' reports: every second or two the newest half second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dspark.core.curve import curve_problem, step_seconds
from dspark.core.fleet import Fleet, LoadReport, Replica, Role
from dspark.core.refinement import refine

_MIN_STEPS = 3  # in a report, before it says anything about a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One verifier's report.

    Attributes:
        arm: Which ran.
        load: Under which load.
        busy_share: Of the window, spent in verify steps; the rest is bubble.
        step_s: Measured mean of a step with all that the loop does around it, waiting left out.
        forecast_step_s: The same by the verifier's refined curve.
        schedule_s: Of it, deciding and bookkeeping.
        draft_s: Measured round trip of a draft; None without drafts.
        forecast_draft_s: The same by the drafter's curve, which knows no transport.
    """

    arm: str
    load: str
    busy_share: float
    step_s: float
    forecast_step_s: float
    schedule_s: float = 0.0
    draft_s: float | None = None
    forecast_draft_s: float | None = None


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
        f"verifiers were busy {_busy(samples)} of the time.",
    ]


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
    sessions = max(min(report.active_sessions, batch_tokens), 1)
    # Drafts in most steps, or the step is not one of a round that drafts.
    drafts = drafter is not None and 2 * report.drafted_steps >= report.steps
    return Sample(
        arm=arm,
        load=load,
        busy_share=report.busy_share,
        step_s=report.turn_s / report.steps,
        schedule_s=report.schedule_s / report.steps,
        forecast_step_s=step_seconds(
            refine(replica.curve, report.step_cells),
            sessions=sessions,
            batch_tokens=batch_tokens,
            context_tokens=report.mean_context_tokens,
        ),
        draft_s=report.draft_round_s if drafts else None,
        forecast_draft_s=_draft_seconds(drafter, replica, sessions) if drafts else None,
    )


def _draft_seconds(drafter: Replica | None, verifier: Replica, sessions: int) -> float:
    assert drafter is not None
    assert drafter.curve is not None
    return step_seconds(
        drafter.curve,
        sessions=sessions,
        batch_tokens=sessions * max(verifier.compatibility.block_size, 1),
        context_tokens=0,
    )


def _round_ratio(sample: Sample) -> float | None:
    if sample.draft_s is None or sample.forecast_draft_s is None:
        return None
    return (sample.forecast_step_s + sample.forecast_draft_s) / (sample.step_s + sample.draft_s)


def _busy(samples: Sequence[Sample]) -> str:
    """Return the median busy share of each load, of arms that drafted."""
    loads: dict[str, list[float]] = {}
    for sample in samples:
        if sample.draft_s is not None:
            loads.setdefault(sample.load, []).append(sample.busy_share)
    return ", ".join(f"{median(own):.0%} at {load}" for load, own in loads.items()) or "-"


def _rounded_median(values: Sequence[float]) -> float | None:
    return round(median(values), 4) if values else None


def _usable(replica: Replica) -> bool:
    return curve_problem(replica.curve) is None
