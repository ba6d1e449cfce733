"""Judging drafts by rejection: exact samples of p from drafts of any q, as the verifier does it.

A draft x_k is accepted iff u < min(1, p(x_k) / q(x_k)) (arXiv 2211.17192, 2302.01318).  The first
one that is not is replaced by a sample of max(p - q, 0), normalised; after the last one comes a
sample of p.  u depends on (seed, choice, position) alone, and so does the noise of that sample,
which is the coupled one: where nothing is drafted, both modes choose the same tokens.

p is softmax(logits / T) after top-k, top-p and min-p, its weights in float32; sums, quotients and
differences are taken in float64.  q is the law that the token was drawn from, as shipped.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dspark_kernels.filters import filter_logits
from dspark_kernels.noise import exponential_noise, noise_bits
from dspark_kernels.sampling import SamplingBatch

ACCEPT_DOMAIN = 1 << 40
"""Added to the choice, which is smaller: the accept test's numbers are nobody else's."""

RESIDUAL_FLOOR = 1e-12
"""A residual of less mass than this is rounding: p and q are the same, and p is sampled."""


class Laws(Protocol):
    """q_1 .. q_n, sparse: q(v) = weight(v) / sum of the weights."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each law."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """Those tokens, different within a law, one law after the other."""

    @property
    def weights(self) -> NDArray[np.float16]:
        """Their weights, positive."""


def decide(
    logits: torch.Tensor,
    sampling: SamplingBatch,
    drafts: Sequence[tuple[Sequence[int], Laws]],
) -> list[tuple[int, ...]]:
    """Judge blocks of drafts: accepted drafts, then the target's own token.

    Args:
        logits: [N, V], the rows of the blocks one after the other: each has one for its anchor
            and one for each draft.
        sampling: N rows with temperatures; positions are those of the tokens to be decided.
        drafts: Each block's tokens with their laws.

    Returns:
        For each block its accepted drafts and one token more.
    """
    weights, totals = _weights(logits, sampling)
    uniforms = accept_uniforms(sampling)
    kept: list[tuple[int, ...]] = []
    last_rows: list[int] = []
    residuals: list[NDArray[np.float32]] = []
    first = 0
    for tokens, laws in drafts:
        accepted = 0
        begin = 0
        residual = None
        for k, token in enumerate(tokens):
            row, end = first + k, begin + laws.counts[k]
            ids = laws.ids[begin:end]
            q = laws.weights[begin:end].astype(np.float64)
            q /= q.sum()  # exact: the weights are multiples of 2**-24
            begin = end
            q_token = float(q[ids == token].sum())
            if uniforms[row] * q_token < weights[row, token] / totals[row]:
                accepted += 1
                continue
            residual = _residual(weights[row], totals[row], ids, q)
            break
        kept.append(tuple(tokens[:accepted]))
        last_rows.append(first + accepted)
        residuals.append(weights[first + accepted] if residual is None else residual)
        first += len(tokens) + 1
    own = _sample(np.stack(residuals), sampling.at(torch.tensor(last_rows)))
    return [(*tokens, token) for tokens, token in zip(kept, own, strict=True)]


def target_laws(logits: torch.Tensor, sampling: SamplingBatch) -> NDArray[np.float64]:
    """p of each row: [N, V] logits -> [N, V], summing to 1."""
    weights, totals = _weights(logits, sampling)
    laws: NDArray[np.float64] = weights / totals[:, None]
    return laws


def accept_uniforms(sampling: SamplingBatch) -> NDArray[np.float64]:
    """u of each row, [N] in [0, 1): 53 bits keyed by (seed, choice, position)."""
    bits = noise_bits(
        sampling.seeds.numpy(),
        sampling.choices.numpy() + ACCEPT_DOMAIN,
        sampling.positions.numpy(),
        2,
    ).astype(np.uint64)
    mixed = (bits[:, 0] << np.uint64(21)) | (bits[:, 1] >> np.uint64(11))
    uniforms: NDArray[np.float64] = mixed.astype(np.float64) * 2.0**-53
    return uniforms


def _weights(
    logits: torch.Tensor, sampling: SamplingBatch
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """p, up to a factor: weights [N, V] and their sums [N]."""
    scaled = logits.float().cpu() / sampling.temperatures[:, None]
    scaled = filter_logits(scaled, sampling.top_k, sampling.top_p, sampling.min_p)
    weights = (scaled - scaled.amax(dim=1, keepdim=True)).exp_().numpy()
    return weights, weights.sum(axis=1, dtype=np.float64)


def _residual(
    weights: NDArray[np.float32],
    total: np.float64,
    ids: NDArray[np.int64],
    q: NDArray[np.float64],
) -> NDArray[np.float32]:
    """max(p - q, 0) up to a factor, [V]; p where nothing of it is left."""
    left = weights.astype(np.float64) / total
    left[ids] -= q
    np.maximum(left, 0.0, out=left)
    mass = left.sum()
    if mass <= RESIDUAL_FLOOR:
        return weights
    shares: NDArray[np.float32] = (left / mass).astype(np.float32)
    return shares


def _sample(weights: NDArray[np.float32], sampling: SamplingBatch) -> list[int]:
    """One token of each row of weights [S, V], by the race argmin E / weight."""
    noise = exponential_noise(
        sampling.seeds, sampling.choices, sampling.positions, weights.shape[1]
    ).numpy()
    with np.errstate(divide="ignore", over="ignore"):  # what weighs nothing never wins
        race = noise / weights
    tokens: list[int] = race.argmin(axis=1).tolist()
    return tokens
