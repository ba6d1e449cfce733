"""Drafts' distributions in the form that vLLM's rejection sampler takes: dense, by request."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dspark.core.draft import Proposal


def dense_laws(
    requests: Sequence[str],
    proposals: Mapping[str, Proposal],
    *,
    vocab_size: int,
    device: torch.device,
) -> torch.Tensor | None:
    """Return q [requests, longest draft, V] float32; None where vLLM needs none.

    A draft without laws counts as drawn from the one-hot law of its token.  That is exact for any
    token, however it was chosen: it is accepted with chance p(x), and otherwise the token is drawn
    from p without x.  (Greedy requests are judged by argmax and look at no law.)

    Args:
        requests: The batch, in vLLM's order.
        proposals: Drafts by request, prefixes as admitted.
        vocab_size: V.
        device: Where the sampler runs.
    """
    if all(proposal.laws is None for proposal in proposals.values()):
        return None  # one-hot is what vLLM assumes by itself
    longest = max(len(proposal.tokens) for proposal in proposals.values())
    where: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    shares: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for row, request in enumerate(requests):
        proposal = proposals.get(request)
        if proposal is None or not proposal.tokens:
            continue
        first = row * longest
        if proposal.laws is None:
            positions = np.arange(len(proposal.tokens))
            where.append((first + positions) * vocab_size + np.array(proposal.tokens))
            shares.append(np.ones(len(proposal.tokens)))
            continue
        laws = proposal.laws
        positions = np.repeat(np.arange(len(laws.counts)), laws.counts)
        weights = laws.weights.astype(np.float64)
        sums = np.add.reduceat(weights, np.cumsum((0, *laws.counts[:-1])))
        where.append((first + positions) * vocab_size + laws.ids)
        shares.append(weights / sums[positions])
    flat = torch.zeros(len(requests) * longest * vocab_size, device=device)
    index = torch.from_numpy(np.concatenate(where)).to(device)
    flat[index] = torch.from_numpy(np.concatenate(shares)).float().to(device)
    return flat.view(len(requests), longest, vocab_size)
