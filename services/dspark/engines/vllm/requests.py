"""What a request says of itself: vLLM's sampling parameters and state, as drafting reads them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dspark.core.sampling import Sampling, SamplingMode
from dspark.engines.vllm.journal import Outcome
from dspark.engines.vllm.wishes import Wishes

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

_HOTTEST = 2.0
"""Drafts of hotter requests are drawn at this temperature; vLLM takes any, and q is shipped."""


def outcome_of(
    request: str,
    state: "CachedRequestState",
    wishes: Wishes,
    *,
    sampled: Sequence[int],
    num_tokens: int,
    takes_laws: bool,
) -> Outcome:
    """Return what a step meant for a request.

    Args:
        request: vLLM's id.
        state: The runner's, after the step.
        wishes: What it asked for.
        sampled: Tokens that the step yielded.
        num_tokens: Tokens of the request, those included.
        takes_laws: Whether the sampler takes drafts' laws.
    """
    params = state.sampling_params
    before = len(state.output_token_ids) - len(sampled)
    return Outcome(
        request=request,
        session=wishes.session,
        mode="greedy" if drawn_as(params, takes_laws).greedy else "rejection",
        sampled=len(sampled),
        committed=_committed(params, sampled, before),
        context_tokens=num_tokens - len(sampled),
        generated_before=before,
    )


def drawn_as(params: "SamplingParams", takes_laws: bool) -> Sampling:
    """How a request's drafts are drawn.

    Greedily for greedy requests, and where they will count as one-hot: where the sampler takes no
    laws, and under a grammar, for vLLM then drops drafts for what they are, which only one-hot
    drafts survive without a bias.
    """
    if params.temperature == 0 or not takes_laws or params.structured_outputs is not None:
        return Sampling()
    return Sampling(
        temperature=min(params.temperature, _HOTTEST),
        top_k=max(0, params.top_k),
        top_p=params.top_p,
        mode=SamplingMode.REJECTION,
    )


def ends_at(params: "SamplingParams", token: int) -> bool:
    """Whether a request that committed this token is over."""
    if params.ignore_eos:  # its own stop tokens hold all the same
        return token in (params.stop_token_ids or ())
    return token in params.all_stop_token_ids


def _committed(params: "SamplingParams", sampled: Sequence[int], before: int) -> int:
    """How many of a step's tokens vLLM's scheduler keeps: none after the last of a request."""
    if params.max_tokens is not None:
        sampled = sampled[: max(0, params.max_tokens - before)]
    for count, token in enumerate(sampled, start=1):
        if ends_at(params, token):
            return count
    return len(sampled)
