"""Measures what a step of the running engine costs, over sessions, batch tokens and context.

Whole turns are measured: scheduler, forward, judging and all that vLLM does between two steps.  For
each number of sessions requests on trial run together; from step to step all of them have drafts
of the same length, which is changed from here.  Their context is within some dozens of
tokens of its nominal length.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from dspark.core.curve import Curve, CurvePoint, make_curve
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.engines.vllm.notes import StepNote
from dspark.engines.vllm.port import EnginePort
from dspark.engines.vllm.wishes import Wishes

SESSIONS = (1, 2, 4, 8, 16, 32)
CONTEXT_TOKENS = (64, 512)

_MARGIN_TOKENS = 32
"""Prompts are this much shorter than the context that they stand for: it grows meanwhile."""

_SIZE_S = 300.0
"""One size takes no longer, or the engine is stuck."""

_MAX_PENDING = 4096


class StepProbe:
    """Lets the profile see each step; ``take`` is where notes go meanwhile."""

    def __init__(self) -> None:
        self._notes: asyncio.Queue[StepNote] = asyncio.Queue(_MAX_PENDING)

    def take(self, note: StepNote) -> None:
        """Take a note; of too many, the newest are dropped."""
        if not self._notes.full():
            self._notes.put_nowait(note)

    async def steps(self, sessions: int, batch_tokens: int, count: int) -> list[StepNote]:
        """Wait for ``count`` steps of exactly this size, one after the other.

        Raises:
            RuntimeError: They do not come.
        """
        found: list[StepNote] = []
        try:
            async with asyncio.timeout(_SIZE_S):
                while len(found) < count:
                    note = await self._notes.get()
                    same = (len(note.rounds), note.batch_tokens) == (sessions, batch_tokens)
                    found = [*found, note] if same and note.turn_s is not None else []
        except TimeoutError:
            raise RuntimeError(
                f"no {count} steps of {sessions} sessions and {batch_tokens} tokens within "
                f"{_SIZE_S:g} s: the curve cannot be measured (profile_at_start: false serves "
                "without)"
            ) from None
        return found


async def profile(
    engine: EnginePort,
    probe: StepProbe,
    *,
    gamma: int,
    max_sessions: int,
    max_batch_tokens: int,
    vocab_size: int,
    version: str,
    device: str,
    repeats: int,
    sessions: Sequence[int] = SESSIONS,
    context_tokens: Sequence[int] = CONTEXT_TOKENS,
) -> Curve:
    """Measure the median turn of each size that fits; nothing else may run meanwhile.

    Raises:
        RuntimeError: The engine did not run the steps that it was given.
        ValueError: No size fits.
    """
    samples: list[CurvePoint] = []
    capacity = engine.capacity
    for context in context_tokens:
        room = 2 * (1 + gamma) * (repeats + 4)
        if context + room > capacity.max_context_tokens:
            continue
        blocks = -(-(context + room) // capacity.block_tokens)
        for count in sessions:
            lengths = [n for n in range(1 + gamma) if count * (1 + n) <= max_batch_tokens]
            if count > max_sessions or count * blocks > capacity.num_blocks or not lengths:
                continue
            prompt = max(1, context - _MARGIN_TOKENS)
            async with _running(engine, count, prompt, room, vocab_size):
                for length in lengths:
                    await engine.try_drafts(length)
                    # The first step of a size allocates.
                    steps = await probe.steps(count, count * (1 + length), 1 + repeats)
                    samples += [
                        CurvePoint(
                            context_tokens=context,
                            sessions=count,
                            batch_tokens=count * (1 + length),
                            step_s=note.turn_s or 0.0,
                        )
                        for note in steps[1:]
                    ]
            await engine.try_drafts(0)
    return make_curve(version, device, samples)


@asynccontextmanager
async def _running(
    engine: EnginePort, count: int, prompt_tokens: int, room: int, vocab_size: int
) -> AsyncIterator[None]:
    """Let ``count`` requests of different texts run until the block ends; who ends starts over."""
    draw = random.Random(f"{count} {prompt_tokens}")
    tasks = [
        asyncio.create_task(
            _run(
                engine,
                Generation(
                    request_id=f"profile-{count}-{prompt_tokens}-{index}",
                    prompt=tuple(draw.randrange(vocab_size) for _ in range(prompt_tokens)),
                    max_new_tokens=room,
                    sampling=Sampling(),
                ),
            )
        )
        for index in range(count)
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(engine: EnginePort, generation: Generation) -> None:
    wishes = Wishes(trial=True)
    for attempt in itertools.count():
        name = f"{generation.request_id}-{attempt}"
        async with aclosing(engine.generate(generation, wishes, name=name)) as outputs:
            async for _ in outputs:
                pass
