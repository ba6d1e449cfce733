"""Drafts judged by rejection at every position of a text that the target wrote.

Rounds of rejection sampling cannot be read off a text by comparing tokens: which token follows a
rejected draft depends on it.  But the committed text has the target's law, and the draft has a
known law *given* the committed token y: with chance min(1, q(y) / p(y)) it is y (accepted), else
it is a draw from max(q - p, 0), normalised.  That is the same joint law of (draft, accepted,
committed), read backwards: so one text serves for any number of rounds, and the target runs once.

Shape legend: A anchors, G draft positions, L tokens, V vocabulary, M tokens of a shipped law.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dspark.model.drafter import DSparkDrafter
from dspark_kernels.rejection_draft import shipped_laws
from dspark_kernels.sampling import SamplingBatch


@torch.no_grad()
def judge_everywhere(
    drafter: DSparkDrafter,
    h: Tensor,
    ids: Tensor,
    anchors: Tensor,
    target_laws: Tensor,
    *,
    temperature: float,
    max_q_tokens: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Draft and judge a block at each anchor.

    Args:
        drafter: The drafter.
        h: Its block states [A, G, D].
        ids: The text [L], gamma tokens longer than the last anchor.
        anchors: [A].
        target_laws: p of the token after each position [L, V].
        temperature: Of drafter and target.
        max_q_tokens: Tokens that a drafter's law is cut to, as the drafter pool's setting.
        seed: Of the drafts.

    Returns:
        Accepted drafts [A], and raw confidence logits [A, G].
    """
    rng = np.random.default_rng(seed)
    num, gamma = h.shape[0], drafter.config.gamma
    sampling = SamplingBatch.of(
        temperatures=[temperature] * num, seeds=[0] * num, positions=[0] * num
    )
    base = drafter.base_logits(h)
    previous, state = ids[anchors], None
    alive: NDArray[np.bool_] = np.ones(num, dtype=bool)
    accepted: NDArray[np.int64] = np.zeros(num, dtype=np.int64)
    rated = []
    for k in range(gamma):
        if drafter.config.enable_confidence_head:
            rated.append(drafter.confidence_logits(h[:, k], previous))
        logits = base[:, k]
        bias, state = drafter.head_bias(previous, h[:, k], state)
        kept, weights = shipped_laws(
            logits if bias is None else logits + bias, sampling, max_q_tokens
        )
        q = weights.astype(np.float64)
        q /= q.sum(axis=1, keepdims=True)
        committed = ids[anchors + 1 + k].numpy()
        p = target_laws[anchors + k].numpy().astype(np.float64)
        q_committed = np.where(kept == committed[:, None], q, 0.0).sum(axis=1)
        takes = alive & (rng.random(num) * p[np.arange(num), committed] < q_committed)
        left = np.maximum(q - np.take_along_axis(p, kept, axis=1), 0.0)
        # Where q is nowhere above p nothing can be rejected; rounding apart, left has mass.
        spent = alive & ~takes & (left.sum(axis=1) > 0.0)
        ends = np.where(spent[:, None], left, q).cumsum(axis=1)
        index = (ends <= rng.random((num, 1)) * ends[:, -1:]).sum(axis=1)
        drawn = np.take_along_axis(kept, np.minimum(index, kept.shape[1] - 1)[:, None], axis=1)
        previous = torch.from_numpy(np.where(takes, committed, drawn[:, 0]))
        alive = takes
        accepted += alive
    confidences = torch.stack(rated, 1) if rated else torch.zeros(num, gamma)
    return torch.from_numpy(accepted), confidences
