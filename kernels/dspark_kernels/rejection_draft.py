"""Drafting for rejection: tokens with the very laws that they were drawn from.

A law is made in the order that keeps it exact: softmax((U + B) / T) in float32, cut by the
request's top-k, top-p and min-p and to the tokens that will be shipped, rounded to the float16
that will be shipped, and only then drawn from.  The weights are multiples of 2**-24: the draw
counts in integers, so that no token's chance differs from weight / sum of the weights.

The randomness is the drafter's own: keyed by (seed, choice, position) and by a nonce that no two
rounds share.  It must not be the target's noise, nor come back at the same position: what was
drafted before has been seen by the schedule meanwhile.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dspark_kernels.filters import filter_logits
from dspark_kernels.noise import noise_bits
from dspark_kernels.sampling import SamplingBatch
from dspark_kernels.sequential_head import Bias

DRAFT_DOMAIN = 1 << 41
"""Added to the choice, which is smaller: a drafter's numbers are nobody else's."""

_GRAINS = 2.0**24
"""float16 weights are multiples of 1 / this."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """N blocks of G tokens and what they were drawn from.

    Attributes:
        tokens: [N, G] int64.
        ids: [N, G, M] int64, ascending in the last dimension.
        weights: [N, G, M] float16; 0 for what cannot be drawn.
    """

    tokens: torch.Tensor
    ids: NDArray[np.int64]
    weights: NDArray[np.float16]


def draw_block(
    base_logits: torch.Tensor,
    anchors: torch.Tensor,
    bias: Bias | None,
    sampling: SamplingBatch,
    *,
    max_tokens: int,
    nonce: int,
) -> Drawn:
    """Draw a block left to right: x_k from softmax((U_k + B(x_{k-1})) / T), x_0 the anchor.

    Args:
        base_logits: U [N, G, V].
        anchors: [N] int64.
        bias: Sequential head, None for none.
        sampling: N rows with temperatures, their positions being those of x_1.
        max_tokens: Tokens that a law may keep.
        nonce: 0 <= nonce < 2**63, another one for every block drawn.
    """
    num_positions = base_logits.shape[1]
    previous = anchors
    tokens, ids, weights = [], [], []
    for index in range(num_positions):
        step = base_logits[:, index]
        added = None if bias is None else bias(index, previous)
        here = sampling.moved(index)
        kept, law = shipped_laws(step if added is None else step + added, here, max_tokens)
        chosen = draw(law, draft_bits(here, nonce))
        previous = torch.from_numpy(np.take_along_axis(kept, chosen[:, None], axis=1)[:, 0])
        tokens.append(previous)
        ids.append(kept)
        weights.append(law)
    return Drawn(
        tokens=torch.stack(tokens, dim=1),
        ids=np.stack(ids, axis=1),
        weights=np.stack(weights, axis=1),
    )


def shipped_laws(
    logits: torch.Tensor, sampling: SamplingBatch, max_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """The laws of N rows as they are shipped: token ids and weights, [N, M] each.

    Args:
        logits: [N, V].
        sampling: N rows with temperatures.
        max_tokens: The M likeliest tokens are kept.
    """
    scaled = logits / sampling.temperatures[:, None]
    scaled = filter_logits(scaled, sampling.top_k, sampling.top_p, sampling.min_p)
    if max_tokens < scaled.shape[1]:
        ids = scaled.topk(max_tokens, dim=1, sorted=False).indices.sort(dim=1).values
        scaled = scaled.gather(1, ids)
    else:
        ids = torch.arange(scaled.shape[1]).expand(scaled.shape)
    weights = torch.softmax(scaled, dim=1).numpy().astype(np.float16)
    if not weights.any(axis=1).all() or np.isnan(weights).any():
        # Broken weights must not end the drafts of everybody: any law is lossless.
        weights = np.nan_to_num(weights)
        weights[~weights.any(axis=1), 0] = 1.0
    return ids.contiguous().numpy(), weights


def draft_bits(sampling: SamplingBatch, nonce: int) -> NDArray[np.uint64]:
    """64 bits for each row's draw, [N]."""
    bits = noise_bits(
        sampling.seeds.numpy() ^ np.int64(nonce),
        sampling.choices.numpy() + DRAFT_DOMAIN,
        sampling.positions.numpy(),
        2,
    ).astype(np.uint64)
    mixed: NDArray[np.uint64] = (bits[:, 0] << np.uint64(32)) | bits[:, 1]
    return mixed


def draw(weights: NDArray[np.float16], bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The index drawn from each row: [N, M] weights and [N] uniform bits -> [N].

    Index i is drawn by weight(i) / sum of the 2**64 values of the bits, to within one of them.
    """
    ends = (weights.astype(np.float64) * _GRAINS).astype(np.uint64).cumsum(axis=1)
    total = ends[:, -1]
    # floor(bits * total / 2**64) without 128-bit integers.
    high, low = bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)
    grain = (high * total + ((low * total) >> np.uint64(32))) >> np.uint64(32)
    index: NDArray[np.int64] = (ends <= grain[:, None]).sum(axis=1)
    return index
