"""Are confidences true?  An estimate from served rounds, whose labels are censored.

The label of position k is known only if it was verified and every draft before it was accepted:
k <= min(committed, verified), where committed counts the target's own token and a generation that
ends inside the block commits fewer.  Those positions, and no others, are counted: the stated
confidence c_k against whether draft k was accepted.  c_k is the chance of that *given* that all
before it were accepted, and the schedule's cut does not look at draft k: so no label is missing
because of what it would have been.  The figure is that of the positions which the schedule
verifies.  The survival a_k has no such estimate: its label is missing where a_k is small.

The error of a position is the expected calibration error over 15 bins.  Old rounds fade with a
half-life of some thousand labels.  A perfect drafter shows 1-3 % there, for want of labels.
"""

from collections.abc import Sequence

import numpy as np

from dspark.core.calibration import NUM_BINS, Floats, fill_bins

HALF_LIFE_LABELS = 5000
"""Labels of a position until an old one counts half."""

MIN_LABELS = 500.0
"""Fewer make no figure."""

Observation = tuple[tuple[float, ...], int, int]
"""(survivals as drafted, positions whose label is known, drafts accepted) of one round."""


def by_position(
    rounds: Sequence[Observation],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Return by position: drafts whose label is known, those accepted, the sum of confidences.

    All three are of the same drafts, so that what the schedule leaves out bends no comparison.
    """
    longest = max((known for _, known, _ in rounds), default=0)
    judged, accepted, stated = [0] * longest, [0] * longest, [0.0] * longest
    for survivals, known, kept in rounds:
        before = 1.0
        for k, survival in enumerate(survivals[:known]):
            judged[k] += 1
            accepted[k] += k < kept
            stated[k] += min(survival / before, 1.0) if before else 0.0
            before = survival
    return tuple(judged), tuple(accepted), tuple(stated)


class Observed:
    """Confidences of one sampling mode against what happened, by position; mutable."""

    def __init__(self, gamma: int) -> None:
        self._gamma = gamma
        self._gaps: Floats = np.zeros((gamma, NUM_BINS))
        self._labels: Floats = np.zeros(gamma)

    def add(self, rounds: Sequence[Observation]) -> None:
        """Fold in rounds; one pass of numpy for each position."""
        if not rounds:
            return
        survivals = np.zeros((len(rounds), self._gamma + 1))
        survivals[:, 0] = 1.0
        for row, (survival, _, _) in enumerate(rounds):
            survivals[row, 1 : len(survival) + 1] = survival
        known = np.array([count for _, count, _ in rounds])
        accepted = np.array([count for _, _, count in rounds])
        for k in range(self._gamma):
            seen = (known > k) & (survivals[:, k] > 0.0)
            before, after = survivals[seen, k], survivals[seen, k + 1]
            num = int(seen.sum())
            if not num:
                continue
            bins = fill_bins(np.clip(after / before, 0.0, 1.0), accepted[seen] > k)
            fade = 0.5 ** (num / HALF_LIFE_LABELS)
            self._gaps[k] = fade * self._gaps[k] + bins.predicted - bins.happened
            self._labels[k] = fade * self._labels[k] + num

    def errors(self) -> tuple[float | None, ...]:
        """Calibration error of each position, 0..1; None where too few labels are known."""
        return tuple(
            float(np.abs(gaps).sum() / labels) if labels >= MIN_LABELS else None
            for gaps, labels in zip(self._gaps, self._labels, strict=True)
        )
