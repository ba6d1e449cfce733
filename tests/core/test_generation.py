import pytest

from dspark.core.generation import Generation, GenerationStats, mean_accepted_length
from dspark.core.sampling import Sampling


def a_generation(**values: object) -> Generation:
    asked = {"prompt": (1, 2), "max_new_tokens": 5, **values}
    return Generation(request_id="r", sampling=Sampling(), **asked)  # type: ignore[arg-type]


def test_a_sequence_can_become_as_long_as_prompt_and_bound_together() -> None:
    assert a_generation().total_tokens == 7
    assert a_generation(committed=(3, 4)).total_tokens == 7


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"prompt": ()}, "the prompt is empty"),
        ({"max_new_tokens": 0}, "leaves nothing to generate after 0"),
        ({"committed": (1, 2, 3, 4, 5)}, "leaves nothing to generate after 5"),
        ({"max_draft_tokens": -1}, "max_draft_tokens -1 is negative"),
    ],
)
def test_a_generation_that_cannot_be_is_refused_with_the_value(
    values: dict[str, object], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        a_generation(**values)


def test_counts_tell_drafted_from_plain_steps() -> None:
    stats = GenerationStats(block_size=3)
    stats.count(drafted=3, verified=2, accepted=1)
    stats.count(drafted=0, verified=0, accepted=0)
    stats.count(drafted=3, verified=3, accepted=3)
    assert (stats.steps, stats.drafted_steps, stats.plain_steps) == (3, 2, 1)
    assert (stats.drafted_tokens, stats.verified_draft_tokens) == (6, 5)
    assert stats.accepted_draft_tokens == 4
    assert stats.accepted_histogram == [1, 1, 0, 1]


def test_tau_counts_the_target_s_own_token() -> None:
    assert mean_accepted_length([0, 0]) == 1.0
    assert mean_accepted_length([3, 0, 0]) == 2.0
    with pytest.raises(ValueError, match="no rounds"):
        mean_accepted_length([])
