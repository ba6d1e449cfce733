"""Repetition, frequency and presence penalties on one row of logits."""

import numpy as np
from numpy.typing import NDArray


def penalize(
    logits: NDArray[np.float32],
    seen: NDArray[np.bool_],
    counts: NDArray[np.int32],
    *,
    repetition: float,
    frequency: float,
    presence: float,
) -> None:
    """Change one row in place, in the order and precision of vLLM (and Hugging Face).

    Elementwise in float32, so a row's result depends on nothing but the row.

    Args:
        logits: [V].
        seen: [V]: tokens of the prompt or of the output; those are subject to ``repetition``.
        counts: [V]: how often each token occurs in the output.
        repetition: Positive logits are divided by it, others multiplied; 1 for none.
        frequency: Taken off for each occurrence in the output.
        presence: Taken off where there is one.
    """
    if repetition != 1.0:
        tokens = np.flatnonzero(seen)
        values = logits[tokens]
        factor = np.float32(repetition)
        logits[tokens] = np.where(values > 0, values / factor, values * factor)
    if frequency or presence:
        tokens = np.flatnonzero(counts)
        logits[tokens] -= np.float32(frequency) * counts[tokens].astype(np.float32)
        logits[tokens] -= np.float32(presence)
