"""Ragged paged attention: the new tokens of many sessions over their paged keys and values.

On a CPU in float32 every (query head, key) score is one dot product of its own, every output
row one running sum over that row's keys in position order.  Nothing is batched across rows,
so the result of a row is bitwise independent of the other sessions, of how many of its
session's tokens ride along, of chunking and of page ids; it depends only on the instruction
set, the torch version and the row's own keys.  (Matrix-product forms such as
`scaled_dot_product_attention` are not: their summation order follows the shapes.)
"""

import warnings

import numpy as np
import torch

from dspark_kernels.segments import Segments, Tile


def ragged_paged_attention(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    segments: Segments,
    *,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention of each session's new tokens over its pages.

    Args:
        q: [T, Hq, Dh] queries in the order of ``segments``.
        key_pages: [P, page, Hkv, Dh], contiguous; the new tokens' keys are already written.
        value_pages: [P, page, Hkv, Dh], contiguous.
        segments: Which queries see which keys.
        scale: Factor of the dot products.
        sliding_window: See only this many last positions, the token's own included.
        softcap: Squash scores to softcap * tanh(score / softcap) first.

    Returns:
        [T, Hq, Dh], in ``q``'s dtype.

    Raises:
        ValueError: ``q`` does not have the segments' number of tokens.
    """
    if q.shape[0] != segments.num_tokens:
        raise ValueError(f"{q.shape[0]} query tokens for segments of {segments.num_tokens}")
    if q.device.type != "cpu" or q.dtype != torch.float32 or key_pages.dtype != torch.float32:
        return dense_attention(
            q,
            key_pages,
            value_pages,
            segments,
            scale=scale,
            sliding_window=sliding_window,
            softcap=softcap,
        )
    num_query_heads, head_dim = q.shape[1:]
    num_kv_heads = key_pages.shape[2]
    keys = key_pages.view(-1, head_dim).t()
    values = value_pages.view(-1, head_dim)
    queries = q.reshape(-1, head_dim)
    outputs = []
    for tile in segments.tiles(num_query_heads, num_kv_heads, sliding_window):
        rows = queries[tile.first_row : tile.first_row + tile.num_rows]
        outputs.append(_attend(rows, keys, values, tile, scale, softcap))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output.view_as(q)


def _attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tile: Tile,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of one tile: queries [N, Dh], keys [Dh, R], values [R, Dh] -> [N, Dh]."""
    pattern = tile.pattern(keys.shape[1])
    torch.sparse.sampled_addmm(pattern, queries, keys, beta=0.0, alpha=scale, out=pattern)
    scores = tile.scores
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    # numpy reduces the rows' runs of scores ten times faster than torch does.
    entries = tile.values
    highest = np.maximum.reduceat(entries, tile.begins)
    np.subtract(entries, np.repeat(highest, tile.counts), out=entries)
    scores.exp_()
    mass = torch.from_numpy(np.add.reduceat(entries, tile.begins)[:, None])
    summed: torch.Tensor = torch._embedding_bag_forward_only(
        values, tile.key_rows, tile.offsets, False, 0, False, tile.entries, True
    )[0]
    return summed.div_(mass)


def dense_attention(
    q: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    segments: Segments,
    *,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """The same by gathered matrix products, session by session: the oracle.

    Used as such by the tests, and as the path of other devices and dtypes (scores and sums in
    float32).  Not bitwise independent of the batch.  Shapes as in `ragged_paged_attention`.
    """
    group = q.shape[1] // key_pages.shape[2]
    keys, values = key_pages.flatten(0, 1), value_pages.flatten(0, 1)
    outputs = []
    first = 0
    for slots, start, length in zip(segments.slots, segments.starts, segments.lengths, strict=True):
        index = torch.from_numpy(slots).to(q.device)
        k = keys[index].float().repeat_interleave(group, dim=1)
        v = values[index].float().repeat_interleave(group, dim=1)
        scores = torch.einsum("thd,lhd->htl", q[first : first + length].float(), k) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        query = torch.arange(start, start + length, device=q.device)[:, None]
        key = torch.arange(start + length, device=q.device)[None, :]
        hidden = key > query
        if sliding_window is not None:
            hidden = hidden | (key <= query - sliding_window)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("htl,lhd->thd", weights, v).to(q.dtype))
        first += length
    return torch.cat(outputs)


def _announce_sparse_csr() -> None:
    """Make torch's once-per-process notice that sparse CSR is in beta here, and drop it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        index = torch.zeros(1, dtype=torch.int32)
        torch.sparse_csr_tensor(
            torch.tensor([0, 1], dtype=torch.int32),
            index,
            torch.zeros(1),
            size=(1, 1),
            check_invariants=False,
        )


_announce_sparse_csr()
