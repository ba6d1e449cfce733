"""The reliability diagram: how often prefixes survived, against how often they were said to.

One row of panels for each sampling mode, raw and calibrated; one line for each draft position;
the diagonal is a drafter that means what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dspark.core.calibration import (
    Calibration,
    Floats,
    fill_bins,
    survival_errors,
    survivals_of,
)

_MIN_SAMPLES = 20
"""A bin with fewer is left out of the picture: its frequency is noise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One mode: its calibration, and held-out rounds [n, G] with accepted drafts [n]."""

    calibration: Calibration
    logits: Floats
    accepted: npt.NDArray[np.int64]


def reliability(
    logits: Floats, accepted: npt.NDArray[np.int64], temperatures: Floats
) -> list[tuple[Floats, Floats]]:
    """Return for every prefix length (mean said survival, observed frequency) of its full bins."""
    survivals = survivals_of(logits, temperatures)
    lines = []
    for k in range(logits.shape[1]):
        bins = fill_bins(survivals[:, k], accepted > k)
        full = bins.count >= _MIN_SAMPLES
        count = bins.count[full]
        lines.append((bins.predicted[full] / count, bins.happened[full] / count))
    return lines


def draw_reliability(panels: Sequence[Panel], path: Path) -> None:
    """Write the picture; the suffix of ``path`` chooses the format.

    Raises:
        ValueError: The format is unknown.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.0, 3.6 * len(panels)), layout="constrained")
    grid = picture.subplots(len(panels), 2, squeeze=False, sharex=True, sharey=True)
    for row, panel in zip(grid, panels, strict=True):
        calibration = panel.calibration
        gamma = calibration.gamma
        sides = (
            ("raw", np.ones(gamma)),
            (
                "calibrated" if calibration.adopted else "fit not adopted: raw",
                np.array(calibration.temperatures),
            ),
        )
        for axes, (side, temperatures) in zip(row, sides, strict=True):
            axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
            lines = reliability(panel.logits, panel.accepted, temperatures)
            for k, (said, seen) in enumerate(lines):
                shade = 0.85 * (k + 1) / gamma
                axes.plot(
                    said, seen, marker=".", linewidth=1, color=(shade, 0.2, 1 - shade),
                    label=f"{k + 1}",
                )  # fmt: skip
            errors = survival_errors(panel.logits, panel.accepted, temperatures)
            axes.set_title(f"{calibration.mode}, {side}: ECE {100 * errors.mean():.1f} %", size=9)
            axes.grid(visible=True, alpha=0.3)
        row[0].set_ylabel("observed survival")
    for axes in grid[-1]:
        axes.set_xlabel("stated survival")
    grid[0][0].legend(title="position", fontsize=7, title_fontsize=7)
    picture.savefig(path, dpi=130)
