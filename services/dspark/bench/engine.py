"""Engines in this process as a ``Server``: no HTTP, no gRPC.

The engines themselves come from whoever starts the bench: nothing here loads a model.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Protocol

from dspark.bench.arms import ADAPTIVE, Arm, Place
from dspark.bench.record import Counts, Piece
from dspark.bench.schedule import Request
from dspark.core.fleet import Fleet
from dspark.core.generation import Generation, GenerationStats
from dspark.core.sampling import Sampling


class End(Protocol):
    """How a generation ended."""

    @property
    def stats(self) -> GenerationStats:
        """Its counts."""


class Engine(Protocol):
    """A verifier and its drafter."""

    def stream(self, generation: Generation) -> "Iterator[tuple[int, ...] | End]":
        """Yield committed tokens as they come, then the end."""

    def fleet(self) -> Fleet:
        """Report what it did since the last call."""


class EngineServer:
    """Asks an engine of the arm's place: one that verifies all, or the one of "adaptive"."""

    def __init__(
        self,
        engines: Mapping[tuple[Place, bool], Engine],
        encode: Callable[[str], list[int]],
        *,
        max_requests: int,
    ) -> None:
        """Take the engines.

        Args:
            engines: By (place, whether it is the one of "adaptive").
            encode: The tokenizer.
            max_requests: Most at once.
        """
        self._engines = engines
        self._encode = encode
        self._readers = ThreadPoolExecutor(max_requests, thread_name_prefix="bench")

    def watch(self, arm: Arm) -> Fleet:
        """See run.Watch."""
        return self._of(arm).fleet()

    async def stream(self, arm: Arm, request: Request) -> AsyncGenerator[Piece]:
        """See Server: the engine blocks, so a thread reads it."""
        engine = self._of(arm)
        generation = Generation(
            request_id=f"bench-{request.index}",
            prompt=tuple(self._encode(request.prompt.text)),
            max_new_tokens=request.tokens,
            sampling=Sampling(temperature=request.temperature, seed=request.seed),
            speculate=arm.enabled,
            max_draft_tokens=arm.max_draft_tokens,
        )
        async with aclosing(self._in_thread(engine.stream(generation))) as events:
            async for event in events:
                if isinstance(event, tuple):
                    yield Piece(token_ids=event)
                else:
                    yield Piece(counts=_counts(event.stats))

    def _of(self, arm: Arm) -> Engine:
        return self._engines[arm.place, arm.kind == ADAPTIVE]

    async def _in_thread(
        self, events: "Iterator[tuple[int, ...] | End]"
    ) -> "AsyncGenerator[tuple[int, ...] | End]":
        loop = asyncio.get_running_loop()
        while (event := await loop.run_in_executor(self._readers, next, events, None)) is not None:
            yield event


def _counts(stats: GenerationStats) -> Counts:
    return Counts(
        steps=stats.steps,
        plain_steps=stats.plain_steps,
        drafted_steps=stats.drafted_steps,
        drafted_tokens=stats.drafted_tokens,
        verified_tokens=stats.verified_draft_tokens,
        accepted_tokens=stats.accepted_draft_tokens,
        moved_bytes=stats.row_bytes + stats.draft_bytes,
    )
