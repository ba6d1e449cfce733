"""Which vLLM, and which ways of running it, can be drafted for."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SUPPORTED = ("0.32",)
"""Minor versions whose private interfaces are known (see ``hooks``)."""


def version_problem(version: str) -> str | None:
    """Say why a version of vLLM cannot be drafted for, or return None."""
    found = re.match(r"\d+\.\d+", version)
    if found is not None and found.group() in SUPPORTED:
        return None
    return (
        f"vLLM {version} is not supported by dspark: install vLLM {' or '.join(SUPPORTED)}, "
        "or serve without the DSpark proposer"
    )


def config_problem(config: "VllmConfig", block_size: int) -> str | None:
    """Say which setting keeps an engine from being drafted for, or return None.

    Args:
        config: vLLM's configuration.
        block_size: gamma of the drafter.
    """
    parallel, cache = config.parallel_config, config.cache_config
    asked = config.speculative_config.num_speculative_tokens
    refusals = {
        "pipeline parallelism: tapped layers lie on other ranks; set pipeline_parallel_size 1": (
            parallel.pipeline_parallel_size > 1
        ),
        "decode context parallelism: KV slots lie on other ranks; "
        "set decode_context_parallel_size 1": (
            getattr(parallel, "decode_context_parallel_size", 1) > 1
        ),
        "LoRA: an adapter changes the hidden states that drafts are made from; "
        "serve adapters without drafting": config.lora_config is not None,
        "asynchronous scheduling: drafts are made from the step's own tokens; "
        "set --no-async-scheduling": bool(config.scheduler_config.async_scheduling),
        "a KV connector: keys and values that come from elsewhere have no context rows; "
        "remove kv_transfer_config": config.kv_transfer_config is not None,
        "kv_sharing_fast_prefill: most prompt tokens get no hidden states there; switch it off": (
            bool(getattr(cache, "kv_sharing_fast_prefill", False))
        ),
        "sequence parallelism: hidden states are split over ranks; switch enable_sp off": (
            bool(getattr(config.compilation_config.pass_config, "enable_sp", False))
        ),
        f"num_speculative_tokens {asked}: the drafter proposes at most {block_size} tokens; "
        f"ask for 1..{block_size}": asked > block_size,
    }
    for reason, applies in refusals.items():
        if applies:
            return f"dspark cannot draft for {reason}"
    return None
