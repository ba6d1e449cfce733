"""What vLLM answers, in our words; the engine itself is shown in e2e/vllm."""

from types import SimpleNamespace
from typing import Any

import pytest

from dspark.core.logits import TokenLogprobs
from dspark.core.session import FinishReason
from dspark.engines.vllm.engine import _output


def _answer(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "token_ids": [4, 5],
        "logprobs": None,
        "finish_reason": None,
        "spec_decode_metrics": None,
    }
    return SimpleNamespace(outputs=[SimpleNamespace(**(values | changes))], num_cached_tokens=None)


def test_tokens_and_their_end() -> None:
    output = _output(_answer(), None)
    assert (output.token_ids, output.finish, output.cached_tokens) == ((4, 5), None, 0)
    assert _output(_answer(finish_reason="stop"), None).finish is FinishReason.STOP
    assert _output(_answer(finish_reason="length"), None).finish is FinishReason.LENGTH


def test_what_vllm_counted_of_its_own_drafts() -> None:
    own = SimpleNamespace(histogram=[2, 1, 0], num_draft_tokens=6)
    output = _output(_answer(finish_reason="stop", spec_decode_metrics=own), None)
    assert (output.accepted_histogram, output.verified_tokens) == ((2, 1, 0), 6)


def test_a_generation_that_vllm_gave_up_is_none() -> None:
    with pytest.raises(ValueError, match="abort"):
        _output(_answer(finish_reason="abort"), None)


def test_log_probabilities_are_listed_best_first_and_only_as_many_as_asked_for() -> None:
    def entry(logprob: float, rank: int) -> Any:
        return SimpleNamespace(logprob=logprob, rank=rank)

    given = [
        {4: entry(-2.0, 3), 9: entry(-0.5, 1), 8: entry(-1.0, 2)},
        {5: entry(-0.1, 1), 9: entry(-3.0, 2)},
    ]
    output = _output(_answer(logprobs=given), 2)
    assert output.logprobs == (
        TokenLogprobs(logprob=-2.0, top=((9, -0.5), (8, -1.0))),
        TokenLogprobs(logprob=-0.1, top=((5, -0.1), (9, -3.0))),
    )
    assert _output(_answer(logprobs=given), 0).logprobs[0] == TokenLogprobs(logprob=-2.0)
