"""Evidence: one measured statistic, its verdict, and how often a correct system would fail it.

A statistic is turned into a p-value and fails below FALSE_ALARM.  So a correct system fails one
case in a million seeds; the whole suite has a few hundred cases, and with its fixed seeds it
either always passes or never.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

FALSE_ALARM = 1e-6
"""Chance that a correct system fails one case, over the choice of its seeds."""

MIN_EXPECTED = 5.0
"""Cells that expect fewer are pooled: the chi-square law holds only for filled cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One statistic.

    Attributes:
        n: Observations behind it.
        statistic: What it is, with its value.
        p_value: Chance of a value at least so bad in a correct system.
    """

    n: int
    statistic: str
    p_value: float

    @property
    def holds(self) -> bool:
        return self.p_value >= FALSE_ALARM


def chi_square(counts: NDArray[np.int64], law: NDArray[np.float64]) -> Evidence:
    """Compare counts with a law; a count where the law has no mass is impossible."""
    counts, law = counts.ravel(), law.ravel()
    total = int(counts.sum())
    if counts[law == 0.0].any():
        return Evidence(n=total, statistic="an impossible outcome", p_value=0.0)
    expected = law * total
    small = expected < MIN_EXPECTED
    cells, hoped = counts[~small], expected[~small]
    if expected[small].sum() >= MIN_EXPECTED:
        cells = np.append(cells, counts[small].sum())
        hoped = np.append(hoped, expected[small].sum())
    freedom = max(len(hoped) - 1, 1)
    value = float(((cells - hoped) ** 2 / hoped).sum())
    half = torch.tensor([freedom / 2, value / 2], dtype=torch.float64)
    p_value = float(torch.special.gammaincc(half[0], half[1]))
    return Evidence(n=total, statistic=f"chi-square {value:.0f}, {freedom} d.f.", p_value=p_value)


def rate(hits: int, n: int, expected: float) -> Evidence:
    """Compare a rate with its exact value, both sides, by the normal law."""
    spread = math.sqrt(max(expected * (1.0 - expected) / n, 1e-12))
    z = (hits / n - expected) / spread
    p_value = math.erfc(abs(z) / math.sqrt(2.0))
    return Evidence(n=n, statistic=f"rate {hits / n:.3f} of {expected:.3f}", p_value=p_value)


def at_least(hits: int, n: int, bound: float) -> Evidence:
    """Compare a rate with its lower bound, one side, by the normal law."""
    spread = math.sqrt(max(bound * (1.0 - bound) / n, 1e-12))
    z = (hits / n - bound) / spread
    p_value = 0.5 * math.erfc(-z / math.sqrt(2.0))
    return Evidence(n=n, statistic=f"rate {hits / n:.3f}, bound {bound:.3f}", p_value=p_value)
