"""vLLM in this process, stepped by hand: things can be done between two steps."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Before vLLM is imported: one process, and one thread if nobody says otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
)

from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine

from e2e.vllm.prompts import NUM_TOKENS, TARGET

BLOCK_TOKENS, NUM_BLOCKS, MAX_SEQS = 32, 96, 32
"""A KV cache of 3072 tokens: enough for 8 requests, far too little for 32."""

_MAX_STEPS = 100_000

__all__ = ["LLM", "Engine", "SamplingParams", "greedy"]


def greedy(max_tokens: int = NUM_TOKENS) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens)


class Engine:
    """One engine; plain, or drafted for by what listens at ``drafter``."""

    def __init__(self, drafter: str | None = None, **changes: Any) -> None:
        drafted: dict[str, Any] = {}
        if drafter is not None:
            drafted = {
                "speculative_config": {
                    "method": "custom_class",
                    "model": "dspark.engines.vllm.DSparkProposer",
                    "num_speculative_tokens": 7,
                },
                "additional_config": {
                    "dspark": {
                        "drafter": "builtin:demo/drafter",
                        "drafters": [drafter],
                        "name": "dspark-demo",
                        "drafting": {"reconnect_s": 0.1},
                    }
                },
            }
        settings: dict[str, Any] = {
            "model": str(TARGET),
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 512,
            "max_num_seqs": MAX_SEQS,
            "block_size": BLOCK_TOKENS,
            "num_gpu_blocks_override": NUM_BLOCKS,
            "disable_log_stats": False,
        }
        self.engine = LLMEngine.from_engine_args(EngineArgs(**settings | drafted | changes))
        self._count = 0

    @property
    def core(self) -> Any:
        return self.engine.engine_core.engine_core

    @property
    def drafts(self) -> Any:
        """Our proposer."""
        return self.core.model_executor.driver_worker.worker.model_runner.drafter

    @property
    def num_waiting_and_running(self) -> int:
        return int(self.core.scheduler.get_num_unfinished_requests())

    def add(self, prompt: Sequence[int], sampling: SamplingParams) -> str:
        self._count += 1
        request = f"r{self._count}"
        self.engine.add_request(request, {"prompt_token_ids": list(prompt)}, sampling)
        return request

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        at_once: int,
        between: Mapping[int, Callable[[], object]] | None = None,
    ) -> list[tuple[int, ...]]:
        """Tokens by prompt, ``at_once`` requests at a time; ``between``: what is done when."""
        left = list(enumerate(prompts))[::-1]
        running: dict[str, int] = {}
        outputs: dict[int, tuple[int, ...]] = {}
        for step in range(_MAX_STEPS):
            while left and len(running) < at_once:
                index, prompt = left.pop()
                running[self.add(prompt, sampling)] = index
            if not running:
                break
            if between is not None and step in between:
                between[step]()
            for output in self.engine.step():
                if output.finished:
                    outputs[running.pop(output.request_id)] = tuple(output.outputs[0].token_ids)
        self.settle()
        return [outputs[index] for index in range(len(prompts))]

    def settle(self) -> None:
        """Run the step in which vLLM tells its worker of what ended."""
        while self.core.scheduler.has_requests():
            self.engine.step()

    def counters(self) -> dict[str, int]:
        """vLLM's own counters, by name."""
        return {
            metric.name: metric.value
            for metric in self.engine.get_metrics()
            if hasattr(metric, "value")
        }
