from dspark.core.generation import GenerationStats
from dspark.gateway.stats import merge, speculative_decoding


def counted(*steps: tuple[int, int, int]) -> GenerationStats:
    stats = GenerationStats(block_size=3)
    for drafted, verified, accepted in steps:
        stats.count(drafted=drafted, verified=verified, accepted=accepted)
    return stats


def test_the_mean_counts_steps_that_had_a_draft() -> None:
    shown = speculative_decoding(counted((3, 2, 2), (3, 3, 1), (0, 0, 0)), max_draft_tokens=0)
    assert shown["mean_acceptance_length"] == 1 + 3 / 2
    assert shown["draft_acceptance_rate"] == 3 / 5
    assert shown["num_spec_steps"] == 2
    assert shown["num_spec_tokens"] == 3


def test_without_a_draft_every_step_made_one_token() -> None:
    shown = speculative_decoding(counted((0, 0, 0)), max_draft_tokens=2)
    assert shown["mean_acceptance_length"] == 1.0
    assert shown["draft_acceptance_rate"] == 0.0
    assert shown["num_spec_tokens"] == 2


def test_counts_of_two_verifiers_add_up() -> None:
    first, later = counted((3, 2, 2)), counted((3, 3, 1), (0, 0, 0))
    merged = merge(first, later)
    assert merged == counted((3, 2, 2), (3, 3, 1), (0, 0, 0))
    assert merge(None, later) == later
    assert merge(first, None) == first
    assert merge(None, None) is None
