"""The pictures: throughput against per-user speed (paper, Figure 7), budget against load (8)."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dspark.bench.summary import Summary

Point = tuple[float, float, str]
"""(a user's tokens/s, all users' tokens/s, load)."""


def require_plotting() -> None:
    """Make sure, before a long run, that it can be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'dspark-serve[bench]'")


def make_lines(summaries: Sequence[Summary]) -> dict[str, list[Point]]:
    """Return the points of every arm, in the order of the loads."""
    lines: dict[str, list[Point]] = {}
    for summary in summaries:
        user = summary.figure(lambda m: m.user_tokens_per_s)
        total = summary.figure(lambda m: m.tokens_per_s)
        if user is not None and total is not None:
            point = (user.median, total.median, summary.load.label)
            lines.setdefault(summary.arm.name, []).append(point)
    return lines


def make_budget_lines(summaries: Sequence[Summary]) -> dict[str, list[tuple[str, float]]]:
    """Return (load, drafts verified in a session's step) of every arm that drafts."""
    lines: dict[str, list[tuple[str, float]]] = {}
    for summary in summaries:
        verified = summary.figure(
            lambda m: m.verified_per_request / m.steps_per_request if m.steps_per_request else None
        )
        if summary.arm.enabled and verified is not None:
            lines.setdefault(summary.arm.name, []).append((summary.load.label, verified.median))
    return lines


def draw(summaries: Sequence[Summary], path: Path, *, title: str) -> None:
    """Write both pictures side by side; the suffix of ``path`` chooses the format.

    Raises:
        ValueError: The format is unknown.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11.0, 4.5), layout="constrained")
    picture.suptitle(title, size=9)
    axes, budget = picture.subplots(1, 2)
    lines = make_lines(summaries)
    colors = {arm: f"C{number}" for number, arm in enumerate(lines)}  # the same in both
    for arm, points in lines.items():
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            marker="o",
            linestyle="--" if arm == "off" else "-",
            color=colors[arm],
            label=arm,
        )
        for user, total, load in points:
            axes.annotate(load, (user, total), textcoords="offset points", xytext=(5, 5), size=7)
    axes.set_xlabel("tokens/s of one user")
    axes.set_ylabel("tokens/s of all users")
    axes.margins(0.1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if axes.lines:
        axes.legend(title="arm", fontsize=8)
    for arm, verified in make_budget_lines(summaries).items():
        budget.plot(
            [at[0] for at in verified],
            [at[1] for at in verified],
            marker="o",
            color=colors.get(arm),
            label=arm,
        )
    budget.set_xlabel("load (users, or arrivals a second)")
    budget.set_ylabel("drafts verified in a step of one session")
    budget.set_ylim(bottom=0)
    budget.grid(visible=True, alpha=0.3)
    if budget.lines:
        budget.legend(title="arm", fontsize=8)
    picture.savefig(path, dpi=150)
