"""Counts of one generation over all verifiers that ran parts of it, and how clients see them."""

from itertools import zip_longest

from dspark.core.generation import GenerationStats


def merge(first: GenerationStats | None, later: GenerationStats | None) -> GenerationStats | None:
    """Return the counts of both attempts; the prompt's cache hits are those of the first."""
    if first is None or later is None:
        return first or later
    return GenerationStats(
        block_size=max(first.block_size, later.block_size),
        steps=first.steps + later.steps,
        drafted_steps=first.drafted_steps + later.drafted_steps,
        plain_steps=first.plain_steps + later.plain_steps,
        drafted_tokens=first.drafted_tokens + later.drafted_tokens,
        verified_draft_tokens=first.verified_draft_tokens + later.verified_draft_tokens,
        accepted_draft_tokens=first.accepted_draft_tokens + later.accepted_draft_tokens,
        cached_prompt_tokens=first.cached_prompt_tokens,
        row_bytes=first.row_bytes + later.row_bytes,
        draft_bytes=first.draft_bytes + later.draft_bytes,
        accepted_histogram=[
            a + b
            for a, b in zip_longest(first.accepted_histogram, later.accepted_histogram, fillvalue=0)
        ],
    )


def speculative_decoding(stats: GenerationStats, *, max_draft_tokens: int) -> dict[str, object]:
    """Return ``metrics.speculative_decoding`` in vLLM's shape.

    A step counts here when it had a draft.  ``num_draft_tokens`` are those that were verified:
    what the budget trimmed, the target never judged.

    Args:
        stats: Counts of the whole generation.
        max_draft_tokens: The client's bound on a step's drafts; 0 for none.
    """
    verified, accepted = stats.verified_draft_tokens, stats.accepted_draft_tokens
    steps = stats.drafted_steps
    return {
        "mean_acceptance_length": 1.0 + (accepted / steps if steps else 0.0),
        "draft_acceptance_rate": accepted / verified if verified else 0.0,
        "acceptance_histogram": list(stats.accepted_histogram),
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": verified,
        "num_spec_tokens": min(max_draft_tokens or stats.block_size, stats.block_size),
    }


def traffic(stats: GenerationStats) -> dict[str, object]:
    """Return ``metrics.dspark``: what vLLM has no names for."""
    return {
        "steps": stats.steps,
        "plain_steps": stats.plain_steps,
        "drafted_tokens": stats.drafted_tokens,
        "row_bytes": stats.row_bytes,
        "draft_bytes": stats.draft_bytes,
    }
