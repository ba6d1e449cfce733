from typing import Any

import pytest
from pydantic import ValidationError

from dspark.config.load import load_system
from dspark.config.pools import VerifierPool
from dspark.config.system import SystemSettings
from dspark.config.vllm_engine import VllmEngineSettings


def system(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "gateway": {"speculation_mode": "rejection"},
        "pools": {"prefill": {"replicas": 0}, "verifier": {"engine": "vllm"}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = values
        for parent in parents:
            owner = owner.setdefault(parent, {})
        owner[last] = value
    return values


def test_vllm_needs_no_more_than_its_name_no_prefill_and_rejection() -> None:
    made = SystemSettings.model_validate(system())
    assert made.pools.verifier.engine_settings == VllmEngineSettings()
    # What is written for a process is read there again.
    assert SystemSettings.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pools__prefill__replicas": 1}, "vLLM runs prompts itself: set it to 0"),
        ({"gateway__speculation_mode": "coupled"}, "set it to rejection"),
        ({"model__drafter": None, "pools__drafter__replicas": 0}, "name a drafter or set drafts"),
        ({"pools__verifier__vllm": {"drafts": "none"}}, "set replicas to 0"),
        (
            {"pools__verifier__vllm": {"drafts": "colocated"}, "pools__drafter__replicas": 0},
            "needs a GPU",
        ),
        ({"pools__verifier__engine": "native", "pools__verifier__vllm": {}}, "engine is native"),
        ({"pools__verifier__settings": {"num_pages": 99}}, "settings.num_pages says nothing"),
        ({"pools__verifier__settings": {"guard": {"share": 0.5}}}, "settings.guard says nothing"),
        ({"pools__verifier__vllm": {"tensor_parallel_size": 2}}, "needs num_gpus 2"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        SystemSettings.model_validate(system(**changes))


def test_a_split_target_and_vllms_own_drafter_are_for_gpus() -> None:
    gpus = {"engine": "vllm", "num_gpus": 2, "vllm": {"tensor_parallel_size": 2}}
    assert VerifierPool.model_validate(gpus).engine_settings.tensor_parallel_size == 2
    own = {"engine": "vllm", "device": "cuda", "vllm": {"drafts": "colocated"}}
    SystemSettings.model_validate(system(pools__verifier=own, pools__drafter__replicas=0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "x"}, "engine_args.model follows from model.target"),
        ({"max_num_seqs": 4}, "follows from pools.verifier.settings.max_sessions"),
        ({"pipeline_parallel_size": 2}, "tapped layers lie on other ranks"),
        ({"enable_lora": True}, "cannot be served"),
        ({"async_scheduling": True}, "the step's own tokens"),
        ({"additional_config": {"dspark": {}}}, "the pool's own"),
    ],
)
def test_arguments_that_no_drafted_engine_can_have_are_refused(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        VllmEngineSettings(engine_args=arguments)


def test_values_that_ask_for_nothing_are_taken() -> None:
    VllmEngineSettings(engine_args={"pipeline_parallel_size": 1, "enable_lora": False, "x": 1})


def test_a_misspelt_key_is_named_even_below_a_setting_that_may_be_null() -> None:
    with pytest.raises(ValueError, match="did you mean 'engine_args'"):
        load_system(None, ["pools.verifier.engine=vllm", "pools.verifier.vllm.engin_args={}"])
