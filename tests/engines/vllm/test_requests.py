from types import SimpleNamespace
from typing import Any

from dspark.engines.vllm.requests import ends_at, outcome_of
from dspark.engines.vllm.wishes import Wishes
from tests.engines.vllm.fake_runner import params


def _state(output: list[int], **changes: Any) -> Any:
    return SimpleNamespace(sampling_params=params(**changes), output_token_ids=output)


def _outcome(state: Any, sampled: list[int]) -> Any:
    return outcome_of(
        "r", state, Wishes(session=3), sampled=sampled, num_tokens=20, takes_laws=True
    )


def test_a_step_keeps_what_vllms_scheduler_keeps() -> None:
    outcome = _outcome(_state([1, 2, 3]), [2, 3])
    assert (outcome.sampled, outcome.committed) == (2, 2)
    assert (outcome.context_tokens, outcome.generated_before) == (18, 1)
    assert (outcome.session, outcome.mode) == (3, "greedy")
    assert _outcome(_state([1, 2, 3], max_tokens=2), [2, 3]).committed == 1
    assert _outcome(_state([1, 2, 3], all_stop_token_ids={2}), [2, 3]).committed == 1
    assert _outcome(_state([1, 2, 3], max_tokens=None), [2, 3]).committed == 2
    assert _outcome(_state([]), []).committed == 0
    assert _outcome(_state([1, 2], temperature=0.8), [2]).mode == "rejection"


def test_the_end_of_text_ends_a_request_unless_it_is_ignored() -> None:
    assert ends_at(params(all_stop_token_ids={9}), 9)
    assert not ends_at(params(all_stop_token_ids={9}, ignore_eos=True), 9)
    assert ends_at(params(all_stop_token_ids={9}, ignore_eos=True, stop_token_ids=[9]), 9)
