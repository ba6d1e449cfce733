"""The drafter's left-to-right step: tokens of a block, each seeing the one sampled before it.

The base logits of all positions come from one parallel pass; what is left is a bias that
depends on the previous token, an argmax, and the next position.
"""

from typing import Protocol

import torch

from dspark_kernels.noise import exponential_noise
from dspark_kernels.sampling import SamplingBatch, choose_tokens, greedy_tokens


class Bias(Protocol):
    """Bias of one position; stateful heads keep their state between calls."""

    def __call__(self, index: int, previous: torch.Tensor) -> torch.Tensor | None:
        """Bias [N, V] of position ``index`` (0 .. G - 1) after tokens [N]; None for none."""
        ...


class LowRankBias:
    """The vanilla Markov head: W2 . W1[previous token].

    Where the vocabulary is small, the product of the two is tabulated once: a row of a table
    is read faster than a product is made.
    """

    def __init__(self, w1: torch.Tensor, w2: torch.Tensor, *, table_bytes: int = 1 << 26) -> None:
        """Take W1 [V, R] and W2 [V, R]; tabulate up to ``table_bytes``."""
        self._w1, self._w2 = w1, w2
        num_bytes = w1.shape[0] * w2.shape[0] * 4
        self._table = w1 @ w2.t() if num_bytes <= table_bytes else None

    def __call__(self, index: int, previous: torch.Tensor) -> torch.Tensor:
        """Bias [N, V] after tokens [N]; the same at every position."""
        if self._table is not None:
            return self._table.index_select(0, previous)
        return self._w1.index_select(0, previous) @ self._w2.t()


def draft_tokens(
    base_logits: torch.Tensor,
    anchors: torch.Tensor,
    bias: Bias | None,
    sampling: SamplingBatch,
) -> torch.Tensor:
    """Sample a block left to right: x_k from softmax((U_k + B(x_{k-1})) / T), x_0 the anchor.

    Rows with a temperature are coupled to the noise of their absolute position, the same that
    the target uses there.  The noise of the whole block is drawn at once.

    Args:
        base_logits: U [N, G, V].
        anchors: [N] int64.
        bias: Sequential head, None for none.
        sampling: N rows, their positions being those of x_1.

    Returns:
        [N, G] int64.
    """
    num_rows, num_positions, vocab_size = base_logits.shape
    sampled = sampling.sampled
    scores, inverse = base_logits, None
    if sampled.numel():
        limited = (sampling.top_k > 0) | (sampling.top_p < 1.0) | (sampling.min_p > 0.0)
        if bool(limited[sampled].any()):
            return _filtered(base_logits, anchors, bias, sampling)
        # argmin E / p = argmax log p - log E, and only the bias is still to come.
        inverse = torch.ones(num_rows, 1)
        inverse[sampled, 0] = 1.0 / sampling.temperatures[sampled]
        scores = base_logits * inverse.unsqueeze(1)
        chosen = sampling.at(sampled)
        noise = exponential_noise(
            chosen.seeds.repeat_interleave(num_positions),
            chosen.choices.repeat_interleave(num_positions),
            (chosen.positions[:, None] + torch.arange(num_positions)).flatten(),
            vocab_size,
        )
        shift = noise.log().view(-1, num_positions, vocab_size)
        if sampled.numel() == num_rows:
            scores.sub_(shift)
        else:
            scores.index_add_(0, sampled, shift, alpha=-1.0)
    tokens = torch.empty(num_rows, num_positions, dtype=torch.int64)
    previous = anchors
    for index in range(num_positions):
        step = scores[:, index]
        added = None if bias is None else bias(index, previous)
        if added is not None:
            step = step + (added if inverse is None else added * inverse)
        previous = greedy_tokens(step)
        tokens[:, index] = previous
    return tokens


def _filtered(
    base_logits: torch.Tensor,
    anchors: torch.Tensor,
    bias: Bias | None,
    sampling: SamplingBatch,
) -> torch.Tensor:
    """The same where top-k, top-p or min-p apply: they need the biased logits of each step."""
    num_rows, num_positions, _ = base_logits.shape
    tokens = torch.empty(num_rows, num_positions, dtype=torch.int64)
    previous = anchors
    for index in range(num_positions):
        step = base_logits[:, index]
        shift = None if bias is None else bias(index, previous)
        if shift is not None:
            step = step + shift
        previous = choose_tokens(step, sampling.moved(index))
        tokens[:, index] = previous
    return tokens
