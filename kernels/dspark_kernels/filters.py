"""Top-k, top-p and min-p."""

import numpy as np
import torch
from numpy.typing import NDArray


def filter_logits(
    logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """Set to -inf what top-k, top-p and min-p leave out; rows with no limit are untouched.

    Limits apply to softmax(logits), so divide by the temperature first.  Top-p is taken of
    what top-k left, min-p of the likeliest token.  Equal logits at a cut are resolved in
    favour of lower ids.

    Args:
        logits: [N, V], already divided by the temperature.
        top_k: [N] int64, 0 for no limit.
        top_p: [N] float32, 1 for no limit.
        min_p: [N] float32, 0 for no limit.

    Returns:
        ``logits`` itself if no row has a limit, else a copy.
    """
    limited = torch.nonzero((top_k > 0) | (top_p < 1.0) | (min_p > 0.0)).flatten().tolist()
    if not limited:
        return logits
    filtered = logits.clone()
    for row in limited:  # one at a time: a row's sums must not depend on other rows
        kept = _kept(logits[row].numpy(), int(top_k[row]), float(top_p[row]), float(min_p[row]))
        if kept is not None:
            filtered[row].masked_fill_(torch.from_numpy(~kept), float("-inf"))
    return filtered


def _kept(
    values: NDArray[np.float32], top_k: int, top_p: float, min_p: float
) -> NDArray[np.bool_] | None:
    """Which of one row's tokens stay, [V]; None for all.

    The limits narrow a set of candidate values step by step; only those that top-p may still
    keep are sorted.  What stays is everything above the smallest value kept, and as many of
    its equals as there is room for.
    """
    highest = values.max()
    candidates = values
    if 0 < top_k < len(candidates):
        candidates = np.partition(candidates, len(candidates) - top_k)[-top_k:]
    if min_p > 0.0:
        candidates = candidates[candidates >= highest + np.float32(np.log(min_p))]
    keep = len(candidates)
    if top_p < 1.0:
        mass = np.exp(candidates - highest).sum(dtype=np.float64)
        # All tokens below this together have less than the share that top-p leaves out.
        floor = highest + np.float32(np.log((1.0 - top_p) / len(values)))
        candidates = np.sort(candidates[candidates >= floor])[::-1]
        sums = np.exp(candidates - highest).cumsum(dtype=np.float64)
        keep = min(len(sums), int(np.searchsorted(sums, top_p * mass)) + 1)
        candidates = candidates[:keep]
    if keep == len(values):
        return None
    cut = candidates.min()
    kept: NDArray[np.bool_] = values > cut
    equals = np.flatnonzero(values == cut)
    kept[equals[: keep - np.count_nonzero(kept)]] = True
    return kept
