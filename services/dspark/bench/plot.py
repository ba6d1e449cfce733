"""The picture: throughput against per-user speed, one line an arm (paper, Figure 7)."""

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


def draw(summaries: Sequence[Summary], path: Path, *, title: str) -> None:
    """Write the picture; the suffix of ``path`` chooses the format.

    Raises:
        ValueError: The format is unknown.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = picture.add_subplot()
    for arm, points in make_lines(summaries).items():
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            marker="o",
            linestyle="--" if arm == "off" else "-",
            label=arm,
        )
        for user, total, load in points:
            axes.annotate(load, (user, total), textcoords="offset points", xytext=(5, 5), size=7)
    axes.set_xlabel("tokens/s of one user")
    axes.set_ylabel("tokens/s of all users")
    axes.set_title(title, size=9)
    axes.margins(0.1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if axes.lines:
        axes.legend(title="arm", fontsize=8)
    picture.savefig(path, dpi=150)
