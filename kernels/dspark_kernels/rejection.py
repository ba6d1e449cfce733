"""Sampling by rejection: drafts of q become exact samples of p, whatever q is.

The standard rule of speculative sampling (arXiv 2211.17192, 2302.01318).  Exact in law under two
conditions, both the caller's: a draft was drawn from that very q (truncated, rounded and
renormalised *before* it was drawn from, see ``truncated``), and how many drafts are verified
depended on no draft among them or after them (causal admission).

Greedy rows need no rule of their own: below GREEDY_TEMPERATURE ``probabilities`` is one-hot, and
then a draft is accepted iff it is the argmax of p.

Comparisons and sums run in float64, row by row: a row's result does not depend on other rows.
"""

from dataclasses import dataclass

import torch

from dspark_kernels.sampling import GREEDY_TEMPERATURE, greedy_tokens

RESIDUAL_FLOOR = 1e-6
"""A residual of less mass than this is rounding: p and q are the same, and p is drawn from."""


@dataclass(frozen=True, slots=True, eq=False)
class Rejected:
    """What became of N blocks of drafts.

    Attributes:
        accepted: [N] int64: drafts accepted, 0 .. verified.
        next_tokens: [N] int64: the target's own token after them: the corrected one where a
            draft was rejected, else the bonus.
    """

    accepted: torch.Tensor
    next_tokens: torch.Tensor


def probabilities(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """The distribution of each row: softmax(logits / T), or one-hot where T is greedy.

    Args:
        logits: [N, V]; -inf for what may not be chosen.
        temperatures: [N] float32.

    Returns:
        [N, V] float32.
    """
    greedy = temperatures < GREEDY_TEMPERATURE
    scaled = logits.float() / torch.where(greedy, 1.0, temperatures)[:, None]
    soft = torch.softmax(scaled, dim=-1)
    if not bool(greedy.any()):
        return soft
    hard = torch.zeros_like(soft).scatter_(1, greedy_tokens(logits).to(soft.device)[:, None], 1.0)
    return torch.where(greedy[:, None], hard, soft)


def truncated(q: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Keep the ``num_tokens`` likeliest tokens of each row and renormalise.

    Draw from the result and ship the result: the two must be the same numbers.  Among equals at
    the cut the lowest ids stay.

    Args:
        q: [N, V], each row of positive mass.
        num_tokens: At least 1.

    Returns:
        [N, V] float32; ``q`` itself where nothing is cut.

    Raises:
        ValueError: ``num_tokens`` is not positive.
    """
    if num_tokens < 1:
        raise ValueError(f"a distribution cut to {num_tokens} tokens has none")
    if num_tokens >= q.shape[1]:
        return q
    kept = torch.argsort(q, dim=1, descending=True, stable=True)[:, :num_tokens]
    values = q.gather(1, kept).double()
    shares = (values / values.sum(dim=1, keepdim=True)).float()
    return torch.zeros_like(q, dtype=torch.float32).scatter_(1, kept, shares)


def draw(distribution: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw one token of each row, by inversion.

    Args:
        distribution: [N, V], each row of positive mass; it need not be normalised.
        uniforms: [N], 0 <= u < 1.

    Returns:
        [N] int64; never a token of no mass.
    """
    sums = distribution.double().cumsum(dim=1)
    total = sums[:, -1:]
    tokens = (sums <= uniforms.double()[:, None] * total).sum(dim=1)
    # u * total may round up to total: the last token with mass is then meant.
    return torch.minimum(tokens, (sums < total).sum(dim=1))


def accept_by_rejection(
    p: torch.Tensor,
    q: torch.Tensor,
    drafts: torch.Tensor,
    uniforms: torch.Tensor,
    lengths: torch.Tensor | None = None,
) -> Rejected:
    """Accept draft x_k while u_k < min(1, p_k(x_k) / q_k(x_k)); then draw one token of the target.

    The first rejection draws from max(p_k - q_k, 0), normalised (from p_k where that is less
    than RESIDUAL_FLOOR).  Where nothing was rejected, or nothing verified, the token is drawn
    from the row of p after the verified drafts.  N blocks, G drafts, V tokens.

    Args:
        p: [N, G + 1, V]: the target's distribution at the anchor and after each draft; rows
            after a block's length are not read.
        q: [N, G, V]: what each draft was drawn from.
        drafts: [N, G] int64, each of positive mass in its q.
        uniforms: [N, G + 1], 0 <= u < 1, independent: G for the drafts, the last one for the
            token drawn.  Never those that the drafts were drawn with.
        lengths: [N] int64: how many drafts of each block are verified, 0 .. G; None for all.

    Returns:
        Accepted drafts and the token after them, for each block.

    Raises:
        ValueError: The shapes do not fit.
    """
    num_blocks, num_drafts = drafts.shape
    vocab_size = p.shape[-1]
    expected = {
        "p": (p, (num_blocks, num_drafts + 1, vocab_size)),
        "q": (q, (num_blocks, num_drafts, vocab_size)),
        "uniforms": (uniforms, (num_blocks, num_drafts + 1)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} and should be {shape}")
    if lengths is None:
        lengths = torch.full((num_blocks,), num_drafts, dtype=torch.int64, device=drafts.device)
    blocks = torch.arange(num_blocks, device=drafts.device)
    chosen = drafts[:, :, None]
    p_of_draft = p[:, :num_drafts].gather(2, chosen).squeeze(2).double()
    q_of_draft = q.gather(2, chosen).squeeze(2).double()
    # u < p / q without the division: what p forbids is never accepted, not even at u = 0.
    passed = uniforms[:, :num_drafts].double() * q_of_draft < p_of_draft
    passed &= torch.arange(num_drafts, device=drafts.device) < lengths[:, None]
    accepted = passed.long().cumprod(dim=1).sum(dim=1)
    target = p[blocks, accepted].double()
    if num_drafts == 0:
        return Rejected(accepted, draw(target, uniforms[:, -1]))
    residual = target - q[blocks, accepted.clamp(max=num_drafts - 1)].double()
    residual.clamp_(min=0.0)
    corrected = (accepted < lengths) & (residual.sum(dim=1) > RESIDUAL_FLOOR)
    return Rejected(
        accepted, draw(torch.where(corrected[:, None], residual, target), uniforms[:, -1])
    )
