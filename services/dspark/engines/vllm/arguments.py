"""What vLLM's engine is started with, from a pool's settings."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark.model.target_folder import local_folder

PROPOSER = "dspark.engines.vllm.DSparkProposer"
EXTENSION = "dspark.engines.vllm.worker.DraftWorker"

_FREE = ("dtype", "seed", "kv_cache_memory_bytes")
"""What only defaults to ours; the rest of ours cannot be given (``config.vllm_engine``)."""

_CPU_KV_BYTES = 1 << 30


def engine_arguments(
    model: ModelSettings,
    settings: VerifierSettings,
    engine: VllmEngineSettings,
    *,
    gamma: int,
    endpoint: EndpointSettings,
    line: Path,
    seed: int,
) -> dict[str, Any]:
    """Return the arguments of ``AsyncEngineArgs``.

    Args:
        model: The pair.
        settings: How much runs at once.
        engine: How vLLM is run.
        gamma: Block size of the drafter.
        endpoint: Where the controller is that knows drafters and budgets, and how to talk to both.
        line: Socket that the proposer tells its steps to.
        seed: Of vLLM's own random numbers; another one for each replica and start, or equal
            requests of two replicas would be given equal tokens.

    Raises:
        ValueError: The target or the drafter is nowhere.
    """
    target = str(local_folder(model.target, what="target"))
    arguments: dict[str, Any] = {
        "model": target,
        "served_model_name": model.name,
        "max_num_seqs": settings.max_sessions,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "scheduling_policy": "priority",
        "async_scheduling": False,
        "disable_log_stats": True,
        "seed": seed,
    }
    if engine.tensor_parallel_size > 1:
        # Ray Serve holds the replica's devices; vLLM makes no placement group of its own.
        arguments["distributed_executor_backend"] = "mp"
    if model.device == "cpu":
        arguments["dtype"] = "float32"
        arguments["kv_cache_memory_bytes"] = _CPU_KV_BYTES  # vLLM's own is most of the machine
    additional = engine.engine_args.get("additional_config")
    if engine.drafts == "pool":
        assert model.drafter is not None
        arguments["worker_extension_cls"] = EXTENSION
        arguments["speculative_config"] = {
            "method": "custom_class",
            "model": PROPOSER,
            "num_speculative_tokens": gamma,
        }
        arguments["additional_config"] = {
            **(additional if isinstance(additional, Mapping) else {}),
            "dspark": {
                "drafter": model.drafter,
                "controller": endpoint.controller,
                "tls": None if endpoint.tls is None else endpoint.tls.model_dump(mode="json"),
                "pool": settings.pool,
                "name": model.name,
                "rows_dtype": model.rows_dtype,
                "line": str(line),
                "drafting": settings.drafting.model_dump(mode="json"),
            },
        }
    elif engine.drafts == "colocated":
        assert model.drafter is not None
        arguments["speculative_config"] = {
            "method": "dspark",
            "model": str(local_folder(model.drafter, what="drafter")),
            "num_speculative_tokens": gamma,
        }
        # Nobody else tells what became of these drafts.
        arguments["per_request_spec_decode_metrics"] = "summary"
    return {**dict(engine.engine_args), **_kept(arguments, engine.engine_args)}


def _kept(ours: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, but for defaults of ours that somebody chose otherwise."""
    return {name: value for name, value in ours.items() if name not in _FREE or name not in given}


def unknown_argument(names: Collection[str], known: Collection[str]) -> str | None:
    """Say which of the given arguments vLLM does not have, or return None."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"pools.verifier.vllm.engine_args.{name}: this vLLM knows no such argument{hint}"
    return None
