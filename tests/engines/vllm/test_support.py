from types import SimpleNamespace
from typing import Any

import pytest

from dspark.engines.vllm.support import config_problem, version_problem


def _config(**changes: Any) -> Any:
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(pipeline_parallel_size=1, decode_context_parallel_size=1),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        scheduler_config=SimpleNamespace(async_scheduling=False),
        speculative_config=SimpleNamespace(num_speculative_tokens=7),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False)),
        lora_config=None,
        kv_transfer_config=None,
    )
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, last, value)
    return config


def test_a_plain_engine_can_be_drafted_for() -> None:
    assert config_problem(_config(), 7) is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("parallel_config__pipeline_parallel_size", 2, "pipeline parallelism"),
        ("parallel_config__decode_context_parallel_size", 2, "decode context parallelism"),
        ("scheduler_config__async_scheduling", True, "asynchronous scheduling"),
        ("lora_config", object(), "LoRA"),
        ("kv_transfer_config", object(), "KV connector"),
        ("cache_config__kv_sharing_fast_prefill", True, "kv_sharing_fast_prefill"),
        ("compilation_config__pass_config__enable_sp", True, "sequence parallelism"),
        ("speculative_config__num_speculative_tokens", 8, "num_speculative_tokens 8"),
    ],
)
def test_what_would_be_silently_wrong_is_refused_by_name(
    path: str, value: object, said: str
) -> None:
    problem = config_problem(_config(**{path: value}), 7)
    assert problem is not None
    assert said in problem


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.32"])
def test_supported_versions(version: str) -> None:
    assert version_problem(version) is None


@pytest.mark.parametrize("version", ["0.31.9", "0.320.0", "1.0", "dev"])
def test_other_versions_are_named(version: str) -> None:
    problem = version_problem(version)
    assert problem is not None
    assert version in problem
