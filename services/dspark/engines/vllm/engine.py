"""vLLM's asynchronous engine behind ``EnginePort``."""

import dataclasses
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from dspark.core.curve import Curve
from dspark.core.generation import Generation
from dspark.core.logits import TokenLogprobs
from dspark.core.session import FinishReason
from dspark.engines.vllm.arguments import unknown_argument
from dspark.engines.vllm.params import grammar_values, sampling_values
from dspark.engines.vllm.port import Capacity, EngineDied, Gauges, Output
from dspark.engines.vllm.stats import SchedulerGauges
from dspark.engines.vllm.support import version_problem
from dspark.engines.vllm.wishes import Wishes
from dspark.engines.vllm.worker import TAKE_CURVE, TRY_DRAFTS

if TYPE_CHECKING:
    from vllm.logprobs import SampleLogprobs
    from vllm.outputs import RequestOutput

log = logging.getLogger(__name__)

_RPC_S = 60.0
_SHUTDOWN_S = 10.0
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VllmEngine:
    """One engine; its processes live until ``shutdown``.

    The constructor takes as long as loading the target does.

    Raises:
        ValueError: One line: what vLLM cannot be started with.
    """

    def __init__(self, arguments: Mapping[str, Any], *, model_name: str) -> None:
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        problem = version_problem(vllm.__version__)
        if problem is not None:
            raise ValueError(problem)
        known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
        problem = unknown_argument(arguments, known)
        if problem is not None:
            raise ValueError(problem)
        self._version = str(vllm.__version__)
        self._gauges = Gauges()
        loggers = [SchedulerGauges(self._gauges, model_name=model_name).factory]
        try:
            self._llm = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**arguments), stat_loggers=loggers
            )
        except RuntimeError as error:  # its processes told their logs alone
            raise ValueError(
                f"vLLM's engine did not start: {error} (the replica's own output has the cause)"
            ) from error
        config = self._llm.vllm_config
        self._capacity = Capacity(
            num_blocks=int(config.cache_config.num_gpu_blocks),
            block_tokens=int(config.cache_config.block_size),
            max_context_tokens=int(config.model_config.max_model_len),
        )

    @property
    def version(self) -> str:
        """Of vLLM."""
        return self._version

    @property
    def capacity(self) -> Capacity:
        """What fits."""
        return self._capacity

    @property
    def gauges(self) -> Gauges:
        """What its scheduler said last."""
        return self._gauges

    @property
    def failure(self) -> str | None:
        """Why it is no more, or None."""
        return "vLLM's engine process ended" if self._llm.errored else None

    async def generate(
        self, generation: Generation, wishes: Wishes, *, name: str
    ) -> AsyncGenerator[Output, None]:
        """See ``EnginePort``."""
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import (
            RequestOutputKind,
            SamplingParams,
            StructuredOutputsParams,
        )
        from vllm.v1.engine.exceptions import EngineDeadError

        grammar = grammar_values(generation)
        params = SamplingParams(
            **sampling_values(generation),
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=None if grammar is None else StructuredOutputsParams(**grammar),
            extra_args=wishes.extra_args(),
        )
        prompt = TokensPrompt(prompt_token_ids=[*generation.prompt, *generation.committed])
        outputs = self._llm.generate(prompt, params, name, priority=generation.priority)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield _output(output, generation.top_logprobs)
        except EngineDeadError as error:
            raise EngineDied("vLLM's engine process ended") from error

    async def take_curve(self, curve: Curve | None) -> None:
        """See ``EnginePort``."""
        text = None if curve is None else TypeAdapter(Curve).dump_json(curve).decode()
        await self._llm.collective_rpc(TAKE_CURVE, timeout=_RPC_S, args=(text,))

    async def try_drafts(self, num_tokens: int) -> None:
        """See ``EnginePort``."""
        await self._llm.collective_rpc(TRY_DRAFTS, timeout=_RPC_S, args=(num_tokens,))

    def shutdown(self) -> None:
        """End its processes."""
        self._llm.shutdown(timeout=_SHUTDOWN_S)


def _output(output: "RequestOutput", top_logprobs: int | None) -> Output:
    """Convert.

    Raises:
        ValueError: vLLM gave the request up.
    """
    (part,) = output.outputs
    reason = part.finish_reason
    own = part.spec_decode_metrics
    if reason is not None and reason not in _FINISH:
        raise ValueError(f"vLLM ended the generation: {reason}")
    return Output(
        token_ids=tuple(part.token_ids),
        logprobs=()
        if top_logprobs is None or part.logprobs is None
        else _logprobs(part.token_ids, part.logprobs, top_logprobs),
        cached_tokens=output.num_cached_tokens or 0,
        finish=None if reason is None else _FINISH[reason],
        accepted_histogram=() if own is None else tuple(own.histogram),
        verified_tokens=0 if own is None else own.num_draft_tokens,
    )


def _logprobs(
    tokens: Sequence[int], given: "SampleLogprobs", count: int
) -> tuple[TokenLogprobs, ...]:
    """vLLM's form, by position: token -> (log-probability, rank), the token's own among them."""
    found = []
    for token, position in zip(tokens, given, strict=True):
        ranked = sorted(position.items(), key=lambda item: item[1].rank or 0)
        found.append(
            TokenLogprobs(
                logprob=position[token].logprob,
                top=tuple((other, entry.logprob) for other, entry in ranked[:count]),
            )
        )
    return tuple(found)
