"""The choices of one request as they are written: tokens from the sessions, text for the client."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from opentelemetry import trace

from dspark.core.generation import GenerationStats
from dspark.gateway.detokenize import Detokenizer
from dspark.gateway.interleave import interleave
from dspark.gateway.requests import Job
from dspark.gateway.routed import RoutedGeneration
from dspark.gateway.served_model import ServedModel
from dspark.gateway.sessions import Sessions
from dspark.gateway.stats import speculative_decoding, traffic
from dspark.gateway.stops import StopMatcher
from dspark.gateway.trace import written_step
from dspark.gateway.writer import Delta, Writer
from dspark.telemetry import metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A delta of one choice, and the counts of that choice so far."""

    delta: Delta
    num_tokens: int
    stats: GenerationStats | None


class Choices:
    """Runs a job and keeps its tally.

    Args:
        job: What to run.
        sessions: Where it runs.
        model: Gives text to the tokens.
    """

    def __init__(self, job: Job, sessions: Sessions, model: ServedModel) -> None:
        self._job = job
        self._sessions = sessions
        self._model = model
        self._num_tokens = [0] * len(job.generations)
        self._stats: list[GenerationStats | None] = [None] * len(job.generations)

    async def pieces(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """Yield (choice index, delta); closing it cancels every generation.

        Raises:
            ApiError: A generation cannot run, or go on.
        """
        streams = [self._write(routed) for routed in self._job.generations]
        async with aclosing(interleave(streams)) as pieces:
            async for index, piece in pieces:
                self._num_tokens[index] = piece.num_tokens
                self._stats[index] = piece.stats
                yield index, piece.delta

    def usage(self) -> dict[str, object]:
        """Return OpenAI's ``usage``, so far."""
        completion_tokens = sum(self._num_tokens)
        cached = sum(stats.cached_prompt_tokens for stats in self._stats if stats)
        return {
            "prompt_tokens": self._job.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self._job.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": min(cached, self._job.prompt_tokens)},
        }

    def metrics(self) -> dict[str, object]:
        """Return the extension ``metrics``; its parts are null where nothing can be said.

        That is so with several choices, without speculation, and after a stop string: it cancels
        the generation, and a cancelled one sends no counts.
        """
        stats = self._stats[0] if len(self._stats) == 1 else None
        if stats is None:
            return {"speculative_decoding": None, "dspark": None}
        generation = self._job.generations[0].generation
        speculation = None
        if generation.speculate:
            speculation = speculative_decoding(stats, max_draft_tokens=generation.max_draft_tokens)
        return {"speculative_decoding": speculation, "dspark": traffic(stats)}

    async def _write(self, routed: RoutedGeneration) -> AsyncGenerator[Piece, None]:
        writer = Writer(
            Detokenizer(self._model.codec.decode),
            StopMatcher(self._job.stop),
            routed.generation.stop_tokens,
            self._model.spell,
        )
        latencies = _Latencies(routed.model)
        async with aclosing(self._sessions.generate(routed)) as batches:
            async for batch in batches:
                delta = writer.push(batch.token_ids, batch.finish, batch.logprobs)
                if routed.generation.trace and delta.token_ids:
                    step = written_step(delta.token_ids, batch.draft, self._model.spell)
                    delta = replace(delta, step=step)
                latencies.observe(delta, writer.num_tokens)
                yield Piece(delta=delta, num_tokens=writer.num_tokens, stats=batch.stats)
                if delta.finish is not None:
                    return


class _Latencies:
    """Counts latencies: to the first token, then between tokens (a batch shares its wait)."""

    def __init__(self, model: str) -> None:
        self._first = metrics.VLLM_TTFT.labels(model)
        self._between = metrics.VLLM_ITL.labels(model)
        self._last_s = time.monotonic()

    def observe(self, delta: Delta, num_tokens: int) -> None:
        """Take in what came now; ``num_tokens`` are all so far."""
        now_s = time.monotonic()
        seconds, self._last_s = now_s - self._last_s, now_s
        count = len(delta.token_ids)
        if not count:
            return
        if num_tokens == count:
            trace.get_current_span().add_event("first token")
            self._first.observe(seconds)
            return
        for _ in range(count):
            self._between.observe(seconds / count)
