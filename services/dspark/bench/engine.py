"""Engines in this process as a ``Server``: no HTTP, no scheduler of others, one request at once.

The engines themselves come from whoever starts the bench: nothing here loads a model.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Protocol

from dspark.bench.arms import ADAPTIVE, Arm
from dspark.bench.record import Counts, Piece
from dspark.bench.schedule import Request
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


class EngineServer:
    """Asks one engine for the fixed lengths (it verifies all) and another for "adaptive"."""

    def __init__(self, plain: Engine, adaptive: Engine, encode: Callable[[str], list[int]]) -> None:
        self._plain = plain
        self._adaptive = adaptive
        self._encode = encode

    async def stream(self, arm: Arm, request: Request) -> AsyncGenerator[Piece]:
        """See Server: the engine blocks, so a thread reads it."""
        engine = self._adaptive if arm.name == ADAPTIVE else self._plain
        generation = Generation(
            request_id=f"bench-{request.index}",
            prompt=tuple(self._encode(request.prompt.text)),
            max_new_tokens=request.tokens,
            sampling=Sampling(temperature=request.temperature, seed=request.seed),
            speculate=arm.enabled,
            max_draft_tokens=arm.max_draft_tokens,
        )
        async with aclosing(_in_thread(engine.stream(generation))) as events:
            async for event in events:
                if isinstance(event, tuple):
                    yield Piece(token_ids=event)
                else:
                    yield Piece(counts=_counts(event.stats))


async def _in_thread(
    events: "Iterator[tuple[int, ...] | End]",
) -> "AsyncGenerator[tuple[int, ...] | End]":
    while (event := await asyncio.to_thread(next, events, None)) is not None:
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
