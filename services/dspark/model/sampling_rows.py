"""From the requests' `Sampling` to rows of a batch; the same for target and drafter."""

from collections.abc import Sequence

from dspark.core.sampling import Sampling
from dspark_kernels.sampling import SamplingBatch


def sampling_batch(samplings: Sequence[Sampling], positions: Sequence[int]) -> SamplingBatch:
    """One row for each choice to be made.

    Args:
        samplings: How each token is chosen.
        positions: The absolute position of each token that is chosen: for logits of the token
            at position p that is p + 1.
    """
    if all(sampling.greedy for sampling in samplings):
        return SamplingBatch.greedy(positions)
    return SamplingBatch.of(
        temperatures=[0.0 if sampling.greedy else sampling.temperature for sampling in samplings],
        seeds=[sampling.seed for sampling in samplings],
        choices=[sampling.choice for sampling in samplings],
        positions=positions,
        top_k=[sampling.top_k for sampling in samplings],
        top_p=[sampling.top_p for sampling in samplings],
        min_p=[sampling.min_p for sampling in samplings],
    )
