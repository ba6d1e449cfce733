"""Top-k, top-p and min-p."""

import numpy as np
import torch


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
        filtered[row] = _filter_row(
            filtered[row], int(top_k[row]), float(top_p[row]), float(min_p[row])
        )
    return filtered


def _filter_row(logits: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """One row [V]: find how many of the likeliest tokens stay, then cut at the last of them."""
    values = logits.numpy()
    # Values alone are sorted (numpy's vectorised sort); ids are looked up at the cut only.
    ordered = np.sort(values)[::-1]
    keep = len(ordered)
    if 0 < top_k < keep:
        keep = top_k
    if min_p > 0.0:
        floor = ordered[0] + np.float32(np.log(min_p))
        keep = min(keep, max(1, int((ordered[:keep] >= floor).sum())))
    if top_p < 1.0:
        # In float64, of what is kept so far: the smallest prefix with at least this mass.
        mass = np.exp(ordered[:keep].astype(np.float64) - float(ordered[0])).cumsum()
        keep = min(keep, int((mass < top_p * mass[-1]).sum()) + 1)
    if keep == len(ordered):
        return logits
    cut = ordered[keep - 1]
    kept = values > cut
    equal = np.flatnonzero(values == cut)
    kept[equal[: keep - int(kept.sum())]] = True
    result = torch.full_like(logits, float("-inf"))
    mask = torch.from_numpy(kept)
    result[mask] = logits[mask]
    return result
