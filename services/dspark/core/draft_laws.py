"""What a block's tokens were drawn from: the drafter's distributions, sparse and as shipped.

Sampling by rejection is exact only if the q of its accept test is the very q that the token was
drawn from.  So a law is its float16 weights: q(v) = weight(v) / sum of the weights.  They are
multiples of 2**-24, so that their sum in float64 is exact whatever its order, and drafter and
verifier mean the same numbers to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SUM_TOLERANCE = 2.0**-10
"""Rounding to float16 moves a sum of probabilities by at most 2**-11 of it, and by 2**-25 for
each weight too small to be normal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DraftLaws:
    """q_1 .. q_n of one block.

    Attributes:
        counts: How many tokens each law can draw.
        ids: Those tokens, ascending within a law, one law after the other.
        weights: Their weights, float16.
    """

    counts: tuple[int, ...]
    ids: NDArray[np.int64]
    weights: NDArray[np.float16]

    def __post_init__(self) -> None:
        if not sum(self.counts) == len(self.ids) == len(self.weights):
            raise ValueError(
                f"{len(self.counts)} laws of {sum(self.counts)} tokens in all "
                f"with {len(self.ids)} ids and {len(self.weights)} weights"
            )
        if self.weights.dtype != np.float16:
            raise ValueError(f"weights are {self.weights.dtype}, not float16")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, DraftLaws)
            and self.counts == other.counts
            and np.array_equal(self.ids, other.ids)
            and np.array_equal(self.weights, other.weights)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def first(self, num_laws: int) -> "DraftLaws":
        """The laws of the first ``num_laws`` tokens."""
        if num_laws >= len(self.counts):
            return self
        stop = sum(self.counts[:num_laws])
        return DraftLaws(
            counts=self.counts[:num_laws], ids=self.ids[:stop], weights=self.weights[:stop]
        )

    def fits(self, tokens: Sequence[int], vocab_size: int) -> bool:
        """Whether these are distributions over 0 .. vocab_size - 1 that could draw ``tokens``."""
        if len(self.counts) != len(tokens) or not all(self.counts):
            return False
        ids, weights = self.ids, self.weights.astype(np.float64)
        if ids.size == 0:
            return True
        if ids.min() < 0 or ids.max() >= vocab_size:
            return False
        if not (np.isfinite(weights).all() and weights.min() > 0.0):
            return False
        starts = np.cumsum((0, *self.counts[:-1]))
        ascending = np.diff(ids) > 0
        ascending[starts[1:] - 1] = True  # from one law to the next
        if not ascending.all():
            return False
        sums = np.add.reduceat(weights, starts)
        slack = _SUM_TOLERANCE + np.array(self.counts) * 2.0**-24
        if (np.abs(sums - 1.0) > slack).any():
            return False
        drawn = ids == np.repeat(np.array(tokens), self.counts)
        return bool(np.add.reduceat(drawn, starts).all())
