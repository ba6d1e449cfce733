"""Draft blocks in dense batches: many anchors of many sequences in one pass.

Shape legend: S sequences, C context rows, A anchors per sequence, G draft positions, D hidden,
V vocabulary, H query heads, N key/value heads, K head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dspark.model.drafter import DSparkDrafter


def block_hidden(
    drafter: DSparkDrafter, features: Tensor, anchors: Tensor, anchor_tokens: Tensor
) -> Tensor:
    """Run the parallel pass of blocks anchored at ``anchors``.

    A block anchored at position s sees the context rows 0..s-1 and its own G rows.

    Args:
        drafter: The drafter.
        features: Raw features [S, C, m * D] of the positions 0..C-1.
        anchors: Anchor positions [S, A].
        anchor_tokens: Tokens at those positions [S, A].

    Returns:
        h [S, A, G, D].
    """
    gamma = drafter.config.gamma
    rows = drafter.project(features)
    where = torch.arange(features.shape[1], device=features.device)
    positions = anchors[..., None] + torch.arange(gamma, device=features.device)
    visible = where < anchors[..., None]

    def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx_k, ctx_v = drafter.layer(index).context_kv(rows, where)
        return block_attention(q, k, v, ctx_k, ctx_v, visible)

    return drafter.hidden(drafter.block_tokens(anchor_tokens), positions, attend)


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, ctx_k: Tensor, ctx_v: Tensor, visible: Tensor
) -> Tensor:
    """Attend from blocks to their visible context and to themselves.

    Args:
        q: [S, A, G, H, K].
        k: [S, A, G, N, K].
        v: [S, A, G, N, K].
        ctx_k: [S, C, N, K].
        ctx_v: [S, C, N, K].
        visible: True where anchor a may see context row c [S, A, C].

    Returns:
        [S, A, G, H, K].
    """
    s, a, g, heads, width = q.shape
    kv = k.shape[-2]
    groups = heads // kv
    scale = width**-0.5
    ctx_k, ctx_v = ctx_k.to(v.dtype), ctx_v.to(v.dtype)
    # [S, N, A * groups * G, K]: anchor-major, so one bias row serves groups * G score rows
    flat = q.to(v.dtype).view(s, a, g, kv, groups, width).permute(0, 3, 1, 4, 2, 5)
    context = flat.reshape(s, kv, a * groups * g, width) @ ctx_k.permute(0, 2, 3, 1)
    context = context.view(s, kv, a, groups * g, -1)
    hidden = ~visible[:, None, :, None, :]
    context = context.masked_fill(hidden, float("-inf"))
    own = flat.reshape(s, kv, a, groups * g, width) @ k.to(v.dtype).permute(0, 3, 1, 4, 2)
    weights = (torch.cat((context, own), -1).float() * scale).softmax(-1).to(v.dtype)
    of_context, of_own = weights.split((context.shape[-1], g), -1)
    out = (of_context.reshape(s, kv, a * groups * g, -1) @ ctx_v.transpose(1, 2)).view(
        s, kv, a, groups * g, width
    )
    out = out + of_own @ v.permute(0, 3, 1, 2, 4)
    out = out.view(s, kv, a, groups, g, width).permute(0, 2, 4, 1, 3, 5)
    attended: Tensor = out.reshape(s, a, g, heads, width)
    return attended


class DraftLoss(torch.autograd.Function):
    """Loss and gradient of drafter logits in a few passes over [..., V].

    Per position: ``0.1 * CE(token) + 0.9 * sum_v |p_d - p_t|`` (not halved), weighted. The
    gradient is made in the forward pass, so that no [..., V] activations are kept but one.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        logits: Tensor,
        target_p: Tensor,
        tokens: Tensor,
        weights: Tensor,
        ce_share: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute the weighted loss.

        Args:
            ctx: Autograd's context.
            logits: Drafter logits [B, V].
            target_p: Target probabilities [B, V], fp32.
            tokens: True tokens [B].
            weights: Weight of each position [B]; the loss is the weighted sum.
            ce_share: Share of the cross-entropy; the rest is the distance's.

        Returns:
            The loss (scalar) and the acceptance 1 - TV of each position [B] (no gradient).
        """
        p = torch.softmax(logits.float(), -1)
        at = torch.arange(p.shape[0])
        ce = -torch.log(p[at, tokens].clamp(min=1e-10))
        gap = p - target_p
        distance = gap.abs().sum(-1)
        sign = gap.sign_()
        inner = (sign * p).sum(-1, keepdim=True)
        grad = sign.sub_(inner).mul_(1.0 - ce_share).add_(ce_share).mul_(p)
        grad[at, tokens] -= ce_share
        grad.mul_(weights[:, None])
        ctx.save_for_backward(grad.to(logits.dtype))
        loss = (weights * (ce_share * ce + (1.0 - ce_share) * distance)).sum()
        acceptance = 1.0 - 0.5 * distance
        ctx.mark_non_differentiable(acceptance)
        return loss, acceptance

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_loss: Tensor, grad_acceptance: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        """Return the stored gradient."""
        grad: Tensor = ctx.saved_tensors[0]  # type: ignore[attr-defined]  # set in forward
        return grad * grad_loss, None, None, None, None


def teacher_forced_logits(
    drafter: DSparkDrafter, h: Tensor, previous: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Make biased logits and confidence logits with the true previous tokens.

    Args:
        drafter: The drafter.
        h: [..., G, D].
        previous: True x_{k-1} [..., G] (the anchor first).

    Returns:
        U + B [..., G, V], and confidence logits [..., G] (None without that head).
    """
    logits = drafter.base_logits(h)
    if drafter.config.markov_head_type == "rnn":
        state: Tensor | None = None
        biases = []
        for k in range(h.shape[-2]):
            bias, state = drafter.head_bias(previous[..., k], h[..., k, :], state)
            assert bias is not None
            biases.append(bias)
        logits = logits + torch.stack(biases, -2)
    elif drafter.config.markov_rank:
        bias, _ = drafter.head_bias(previous, h)
        assert bias is not None
        logits = logits + bias
    if not drafter.config.enable_confidence_head:
        return logits, None
    return logits, drafter.confidence_logits(h, previous)


def confidence_loss(confidence: Tensor, acceptance: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy of confidence logits against 1 - TV, all [B]."""
    loss = F.binary_cross_entropy_with_logits(confidence, acceptance, reduction="none")
    return (weights * loss).sum()
