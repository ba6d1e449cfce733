from types import SimpleNamespace
from typing import Any

import pytest

from dspark.engines.vllm.hooks import install, probe
from dspark.engines.vllm.runner import RunnerDrafts
from tests.engines.vllm.fake_runner import Engine, new_runner_class


def test_a_runner_with_another_proposer_is_left_as_it_is() -> None:
    runner_class = new_runner_class()
    install(runner_class, RunnerDrafts)
    runner = runner_class()
    runner.drafter = object()
    runner._setup_eagle3_aux_hidden_state_outputs()
    assert not runner.use_aux_hidden_state_outputs


def test_hooks_are_set_once() -> None:
    runner_class = new_runner_class()
    install(runner_class, RunnerDrafts)
    first = runner_class.execute_model
    install(runner_class, RunnerDrafts)
    assert runner_class.execute_model is first


def test_a_step_without_drafts_is_sampled_as_plain_vllm_does() -> None:
    runner = Engine().runner
    assert runner._sample(None, SimpleNamespace(num_draft_tokens=[0, 0])) == "plainly"
    assert runner._sample(None, SimpleNamespace(num_draft_tokens=[0, 3])) == "by rejection"
    assert runner._sample(None, None) == "plainly"
    runner.drafter = object()
    assert runner._sample(None, SimpleNamespace(num_draft_tokens=[0])) == "by rejection"


@pytest.mark.parametrize(
    "name",
    [
        "execute_model",
        "_sample",
        "_setup_eagle3_aux_hidden_state_outputs",
        "propose_draft_token_ids",
    ],
)
def test_a_missing_method_is_named(name: str) -> None:
    runner_class = new_runner_class()
    delattr(runner_class, name)
    with pytest.raises(RuntimeError, match=f"has no {name}"):
        install(runner_class, RunnerDrafts)


@pytest.mark.parametrize("name", ["input_batch", "requests", "execute_model_state"])
def test_a_missing_attribute_is_named(name: str) -> None:
    runner: Any = new_runner_class()()
    delattr(runner, name)
    with pytest.raises(RuntimeError, match=f"has no {name}"):
        probe(runner, runner.model)


def test_a_model_that_keeps_its_hidden_states_to_itself_is_named() -> None:
    with pytest.raises(RuntimeError, match="cannot draft for dict"):
        probe(new_runner_class()(), {})


def test_a_sampler_that_takes_no_laws_is_no_obstacle() -> None:
    runner = new_runner_class()()
    assert probe(runner, runner.model)
    del runner._draft_probs
    assert not probe(runner, runner.model)
