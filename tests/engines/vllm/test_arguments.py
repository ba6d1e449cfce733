from pathlib import Path
from typing import Any

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.tls import TlsSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm import VllmSettings
from dspark.config.vllm_engine import OWNED, VllmEngineSettings
from dspark.engines.vllm.arguments import engine_arguments, unknown_argument

TLS = TlsSettings(certificate=Path("/c"), key=Path("/k"), authority=Path("/a"))


def arguments(
    *, device: str = "cpu", tls: TlsSettings | None = None, **engine: Any
) -> dict[str, Any]:
    return engine_arguments(
        ModelSettings(device=device),
        VerifierSettings(max_sessions=8, max_batch_tokens=128, pool="v"),
        VllmEngineSettings(**engine),
        gamma=7,
        endpoint=EndpointSettings(controller="head:1", tls=tls),
        line=Path("/tmp/line"),
        seed=5,
    )


def test_the_engine_follows_the_pools_settings() -> None:
    made = arguments()
    assert Path(made["model"]).is_dir()
    assert made["served_model_name"] == "dspark-demo"
    assert (made["max_num_seqs"], made["max_num_batched_tokens"]) == (8, 128)
    assert made["speculative_config"]["num_speculative_tokens"] == 7
    assert not made["async_scheduling"]
    assert made["scheduling_policy"] == "priority"
    # What the proposer is given is what the proposer reads.
    given = VllmSettings.model_validate(made["additional_config"]["dspark"])
    assert (given.controller, given.pool, given.line) == ("head:1", "v", Path("/tmp/line"))


def test_the_proposer_talks_as_its_replica_does() -> None:
    given = arguments(tls=TLS)["additional_config"]["dspark"]
    assert VllmSettings.model_validate(given).tls == TLS
    assert arguments()["additional_config"]["dspark"]["tls"] is None


def test_what_only_defaults_to_ours_can_be_chosen() -> None:
    assert arguments()["dtype"] == "float32"
    assert arguments()["kv_cache_memory_bytes"] > 0
    made = arguments(engine_args={"dtype": "bfloat16", "seed": 3, "max_model_len": 99})
    assert (made["dtype"], made["seed"], made["max_model_len"]) == ("bfloat16", 3, 99)
    assert "dtype" not in arguments(device="cuda")


def test_additional_settings_of_others_stay() -> None:
    made = arguments(engine_args={"additional_config": {"theirs": 1}})
    assert made["additional_config"]["theirs"] == 1
    assert "dspark" in made["additional_config"]


def test_nobody_drafts_or_vllm_itself_does() -> None:
    plain = arguments(drafts="none")
    assert "speculative_config" not in plain
    assert "worker_extension_cls" not in plain
    own = arguments(drafts="colocated", device="cuda")
    assert own["speculative_config"]["method"] == "dspark"
    assert Path(own["speculative_config"]["model"]).is_dir()
    assert own["per_request_spec_decode_metrics"] == "summary"
    assert "additional_config" not in own


def test_a_split_target_lives_in_the_replicas_own_processes() -> None:
    assert "distributed_executor_backend" not in arguments()
    made = arguments(tensor_parallel_size=2, device="cuda")
    assert (made["tensor_parallel_size"], made["distributed_executor_backend"]) == (2, "mp")


def test_everything_that_is_ours_cannot_be_given() -> None:
    made = arguments(tensor_parallel_size=2)
    free = {"dtype", "seed", "kv_cache_memory_bytes", "async_scheduling", "additional_config"}
    assert set(made) - free <= set(OWNED)


def test_an_unknown_argument_is_named_with_its_neighbour() -> None:
    said = unknown_argument(["max_model_length"], ["model", "max_model_len"])
    assert said is not None
    assert "max_model_length" in said
    assert "'max_model_len'" in said
    assert unknown_argument(["model"], ["model"]) is None
