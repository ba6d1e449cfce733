"""Settings of vLLM as the engine of a verifier pool."""

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from dspark.config.base import Settings

OWNED: dict[str, str] = {
    "model": "model.target",
    "tokenizer": "model.target",
    "served_model_name": "model.name",
    "tensor_parallel_size": "pools.verifier.vllm.tensor_parallel_size",
    "max_num_seqs": "pools.verifier.settings.max_sessions",
    "max_num_batched_tokens": "pools.verifier.settings.max_batch_tokens",
    "speculative_config": "pools.verifier.vllm.drafts",
    "scheduling_policy": "the priority of requests",
    "worker_extension_cls": "the pool itself",
    "distributed_executor_backend": "the pool itself: workers live in the replica's own processes",
    "per_request_spec_decode_metrics": "pools.verifier.vllm.drafts",
    "disable_log_stats": "the pool itself: load reports are made of them",
}
"""Arguments of vLLM's engine that follow from other settings, and from which."""

REFUSED: dict[str, tuple[tuple[JsonValue, ...], str]] = {
    "pipeline_parallel_size": ((1,), "tapped layers lie on other ranks"),
    "decode_context_parallel_size": ((1,), "KV slots lie on other ranks"),
    "data_parallel_size": ((1,), "replicas of the pool are what multiplies engines"),
    "enable_lora": ((False, None), "an adapter changes the states that drafts are made from"),
    "async_scheduling": ((False,), "drafts are made from the step's own tokens"),
    "kv_transfer_config": ((None,), "keys and values from elsewhere have no context rows"),
    "kv_sharing_fast_prefill": ((False,), "most prompt tokens get no hidden states there"),
    "skip_tokenizer_init": ((False,), "a grammar needs the tokenizer"),
}
"""Arguments that no drafted engine can have: the values that ask for nothing, and why."""


class VllmEngineSettings(Settings):
    """One vLLM engine in each replica of the verifier pool."""

    python: str | None = None
    """Interpreter of the environment that vLLM, this package and the same Ray are installed in, on
    every node of the pool; null: the one that the node's Ray runs in."""
    drafts: Literal["pool", "colocated", "none"] = "pool"
    """Who drafts: the drafter pool; vLLM's own ``dspark`` method inside the engine, for comparison
    (it needs a GPU, and the controller's budgets do not reach it); or nobody."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Devices that the target is split over, all on the replica's node."""
    kv_cache_mb: int | None = Field(default=None, ge=64)
    """Memory of the KV cache on a CPU; null: what vLLM takes by itself."""
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of vLLM's engine by their Python names (``max_model_len``, ``dtype``,
    ``enforce_eager``, ``gpu_memory_utilization``...)."""

    @model_validator(mode="after")
    def _engine_args_can_be_drafted_for(self) -> Self:
        for name, value in self.engine_args.items():
            if name in OWNED:
                raise ValueError(f"engine_args.{name} follows from {OWNED[name]}: remove it")
            neutral, why = REFUSED.get(name, ((value,), ""))
            if value not in neutral:
                raise ValueError(f"engine_args.{name} {value!r} cannot be served: {why}; remove it")
        additional = self.engine_args.get("additional_config")
        if isinstance(additional, dict) and "dspark" in additional:
            raise ValueError("engine_args.additional_config.dspark is the pool's own: remove it")
        return self
