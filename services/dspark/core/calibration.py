"""Sequential temperature scaling (STS) of drafter confidences.

The drafter's confidence for position k is ``sigmoid(logit_k / T_k)``; the survival of a prefix is
the product of its confidences. STS picks T_1, T_2, ... in order, each minimising the expected
calibration error of the *cumulative* product with the earlier ones fixed (paper, section 3.2.1).
Greedy, coupled and rejection sampling are calibrated apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Mode = Literal["greedy", "coupled", "rejection"]
MODES: tuple[Mode, ...] = get_args(Mode)
Floats = npt.NDArray[np.float64]

GRID: Floats = np.logspace(-1.0, 1.0, 41)
"""Candidate temperatures; the middle one is exactly 1."""
NUM_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Temperatures of one sampling mode, and how they were found.

    Attributes:
        temperatures: T_k for k = 1..gamma.
        dataset: What the rounds were drafted on.
        num_samples: Rounds that the temperatures were fitted on.
        ece_before: Held-out error of the raw confidences, mean over positions, in 0..1.
        ece_after: The same with these temperatures.
        ece_fitted: The same with the temperatures that were fitted: where it is not below
            ``ece_before`` they were not adopted, and these are all 1.
        mode: Sampling mode of the rounds.
        gamma: Draft positions.
    """

    temperatures: tuple[float, ...]
    dataset: str
    num_samples: int
    ece_before: float
    ece_after: float
    ece_fitted: float
    mode: Mode
    gamma: int

    @property
    def adopted(self) -> bool:
        """Whether the fit lowered the held-out error."""
        return self.ece_fitted < self.ece_before

    def __post_init__(self) -> None:
        if len(self.temperatures) != self.gamma:
            raise ValueError(
                f"calibration holds {len(self.temperatures)} temperatures for gamma {self.gamma}"
            )
        if not all(np.isfinite(t) and t > 0 for t in self.temperatures):
            raise ValueError(f"temperatures {list(self.temperatures)} must be finite and positive")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is none of {', '.join(MODES)}")

    def require_gamma(self, gamma: int) -> None:
        """Refuse temperatures fitted for another block size.

        Raises:
            ValueError: If ``gamma`` differs.
        """
        if gamma != self.gamma:
            raise ValueError(
                f"the calibration was fitted for gamma {self.gamma}, the drafter has gamma "
                f"{gamma}: run `dspark calibrate` for this drafter"
            )

    def apply(self, logits: npt.ArrayLike) -> Floats:
        """Turn confidence logits [..., G] into calibrated confidences [..., G] in (0, 1).

        Raises:
            ValueError: If the last dimension is not gamma.
        """
        values = np.asarray(logits, dtype=np.float64)
        self.require_gamma(values.shape[-1])
        return confidences(values, np.array(self.temperatures))

    def to_json(self) -> dict[str, object]:
        """Return the JSON document of this mode."""
        return {
            "temperatures": [round(t, 6) for t in self.temperatures],
            "dataset": self.dataset,
            "num_samples": self.num_samples,
            "ece_before": round(self.ece_before, 6),
            "ece_after": round(self.ece_after, 6),
            "ece_fitted": round(self.ece_fitted, 6),
            "adopted": self.adopted,
            "mode": self.mode,
            "gamma": self.gamma,
        }


def identity(gamma: int, mode: Mode) -> Calibration:
    """Return the calibration that changes nothing."""
    return Calibration(
        temperatures=(1.0,) * gamma,
        dataset="none",
        num_samples=0,
        ece_before=0.0,
        ece_after=0.0,
        ece_fitted=0.0,
        mode=mode,
        gamma=gamma,
    )


def parse_calibration(raw: Mapping[str, object], gamma: int) -> Calibration:
    """Parse the JSON document of one mode and check it against the drafter's gamma.

    Raises:
        ValueError: Naming the key that is missing or wrong, or the gamma that differs.
    """
    temperatures = raw.get("temperatures")
    if not isinstance(temperatures, list) or not all(
        isinstance(t, int | float) and not isinstance(t, bool) for t in temperatures
    ):
        raise ValueError(f"calibration temperatures {temperatures!r}: expected a list of numbers")
    mode = raw.get("mode")
    if mode not in MODES:
        raise ValueError(f"calibration mode {mode!r} is none of {', '.join(MODES)}")
    numbers: dict[str, float] = {}
    for key in ("num_samples", "ece_before", "ece_after"):
        value = raw.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"calibration {key} is {value!r}: expected a number")
        numbers[key] = value
    fitted = raw.get("ece_fitted", numbers["ece_after"])  # absent in files of older versions
    if isinstance(fitted, bool) or not isinstance(fitted, int | float):
        raise ValueError(f"calibration ece_fitted is {fitted!r}: expected a number")
    stated = raw.get("gamma", len(temperatures))
    if not isinstance(stated, int):
        raise ValueError(f"calibration gamma is {stated!r}: expected an integer")
    found = Calibration(
        temperatures=tuple(float(t) for t in temperatures),
        dataset=str(raw.get("dataset", "")),
        num_samples=int(numbers["num_samples"]),
        ece_before=float(numbers["ece_before"]),
        ece_after=float(numbers["ece_after"]),
        ece_fitted=float(fitted),
        mode=mode,
        gamma=stated,
    )
    found.require_gamma(gamma)
    return found


def confidences(logits: Floats, temperatures: Floats) -> Floats:
    """Compute sigmoid(logits / temperatures), stable for large logits; shapes broadcast."""
    scaled = np.clip(logits / temperatures, -60.0, 60.0)
    return np.asarray(1.0 / (1.0 + np.exp(-scaled)), dtype=np.float64)


def expected_calibration_error(
    predicted: Floats, happened: npt.NDArray[np.bool_], num_bins: int = NUM_BINS
) -> float:
    """Mean gap between prediction and frequency over equal-width bins, weighted by their counts.

    Args:
        predicted: Predicted probabilities [n].
        happened: Whether each came true [n].
        num_bins: Bins over 0..1.
    """
    if predicted.size == 0:
        raise ValueError("no samples: the calibration error of nothing is undefined")
    counted = fill_bins(predicted, happened, num_bins)
    return float(np.abs(counted.predicted - counted.happened).sum() / predicted.size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bins:
    """Sums over equal-width bins of 0..1, [num_bins] each: predictions, what came true, samples."""

    predicted: Floats
    happened: Floats
    count: Floats


def fill_bins(predicted: Floats, happened: npt.NDArray[np.bool_], num_bins: int = NUM_BINS) -> Bins:
    """Sort predictions [n] and whether each came true [n] into bins."""
    index = np.minimum((predicted * num_bins).astype(np.int64), num_bins - 1)

    def total(weights: npt.NDArray[np.float64] | None) -> Floats:
        return np.bincount(index, weights=weights, minlength=num_bins).astype(np.float64)

    return Bins(
        predicted=total(predicted), happened=total(happened.astype(np.float64)), count=total(None)
    )


def survivals_of(logits: Floats, temperatures: Floats) -> Floats:
    """Survival of every prefix [n, G] from logits [n, G] and temperatures [G]."""
    return np.asarray(np.cumprod(confidences(logits, temperatures), axis=1), dtype=np.float64)


def survival_errors(
    logits: Floats, accepted: npt.NDArray[np.int64], temperatures: Floats
) -> Floats:
    """Calibration error of the survival of every prefix length: [G].

    Args:
        logits: Confidence logits of fully verified rounds [n, G].
        accepted: Accepted drafts of each round [n], 0..G.
        temperatures: [G].
    """
    survival = survivals_of(logits, temperatures)
    return np.array(
        [expected_calibration_error(survival[:, k], accepted > k) for k in range(logits.shape[1])]
    )


def fit_temperatures(logits: Floats, accepted: npt.NDArray[np.int64]) -> tuple[float, ...]:
    """Fit T_1..T_G in order on rounds that were drafted and verified in full.

    Args:
        logits: Raw confidence logits (temperature 1) [n, G].
        accepted: Accepted drafts of each round [n].

    Raises:
        ValueError: If shapes do not fit or nothing is given.
    """
    if logits.ndim != 2 or accepted.shape != logits.shape[:1] or not len(logits):
        raise ValueError(
            f"expected logits [n, G] and accepted [n], got {logits.shape} and {accepted.shape}"
        )
    earlier = np.ones(len(logits))
    chosen: list[float] = []
    for k in range(logits.shape[1]):
        happened = accepted > k
        best, best_error, best_survival = 1.0, np.inf, earlier
        # Nearest to 1 first, so that a tie leaves the confidences as they are.
        for temperature in sorted(GRID, key=lambda t: abs(np.log(t))):
            survival = earlier * confidences(logits[:, k], np.array(temperature))
            error = expected_calibration_error(survival, happened)
            if error < best_error:
                best, best_error, best_survival = float(temperature), error, survival
        chosen.append(best)
        earlier = best_survival
    return tuple(chosen)


def calibrate(
    logits: Floats,
    accepted: npt.NDArray[np.int64],
    held_out_logits: Floats,
    held_out_accepted: npt.NDArray[np.int64],
    *,
    mode: Mode,
    dataset: str,
) -> Calibration:
    """Fit on one set of rounds, judge on another; identity where the error does not fall.

    Args:
        logits: Raw confidence logits to fit on [n, G].
        accepted: Accepted drafts [n].
        held_out_logits: Rounds to judge by [h, G].
        held_out_accepted: [h].
        mode: Sampling mode of all rounds.
        dataset: Name of what was drafted.

    Returns:
        The calibration; its errors are means over the prefix lengths of the held-out rounds.
    """
    gamma = logits.shape[1]
    ones = np.ones(gamma)
    fitted = fit_temperatures(logits, accepted)
    before = float(survival_errors(held_out_logits, held_out_accepted, ones).mean())
    with_fit = float(survival_errors(held_out_logits, held_out_accepted, np.array(fitted)).mean())
    after = with_fit
    if with_fit >= before:
        fitted, after = (1.0,) * gamma, before
    return Calibration(
        temperatures=fitted,
        dataset=dataset,
        num_samples=len(logits),
        ece_before=before,
        ece_after=after,
        ece_fitted=with_fit,
        mode=mode,
        gamma=gamma,
    )
