"""An engine for the pool's side, over integers: it knows every text, and tells of its steps."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from dspark.core.curve import Curve
from dspark.core.generation import Generation
from dspark.core.session import FinishReason
from dspark.engines.vllm.notes import RoundNote, StepNote
from dspark.engines.vllm.port import Capacity, EngineDied, Gauges, Output
from dspark.engines.vllm.wishes import Wishes
from tests.fakes import continuation

GAMMA = 3


def step(*rounds: RoundNote, **changes: object) -> StepNote:
    """A step of these rounds alone."""
    values: dict[str, object] = {
        "batch_tokens": sum(1 + round_.verified for round_ in rounds),
        "prompt_tokens": 0,
        "step_s": 0.01,
        "turn_s": 0.012,
        "rounds": rounds,
    }
    return StepNote(**(values | changes))  # type: ignore[arg-type]


def round_note(session: int, context: int, accepted: int, **changes: object) -> RoundNote:
    """A round whose whole block was verified."""
    values: dict[str, object] = {
        "session": session,
        "mode": "greedy",
        "context_tokens": context,
        "committed": accepted + 1,
        "drafted": (7,) * GAMMA,
        "confidences": (0.5,) * GAMMA,
        "verified": GAMMA,
        "accepted": accepted,
        "row_bytes": 10,
        "draft_bytes": 4,
    }
    return RoundNote(**(values | changes))  # type: ignore[arg-type]


class FakeEngine:
    """Commits two tokens a step after the first one: one draft of three is right each time."""

    def __init__(self, tell: Callable[[StepNote], None] = lambda note: None) -> None:
        self.tell = tell
        self.capacity = Capacity(num_blocks=64, block_tokens=8, max_context_tokens=400)
        self.gauges = Gauges()
        self.version = "0.32.0"
        self.failure: str | None = None
        self.running: dict[str, Generation] = {}
        self.wishes: list[Wishes] = []
        self.curve: Curve | None = None
        self.trial_tokens = 0
        self.held: asyncio.Event | None = None
        self.ended = False

    async def generate(
        self, generation: Generation, wishes: Wishes, *, name: str
    ) -> AsyncGenerator[Output, None]:
        self.running[name] = generation
        self.wishes.append(wishes)
        try:
            context = [*generation.prompt, *generation.committed]
            left = generation.max_new_tokens - len(generation.committed)
            sampling = generation.sampling
            while left:
                if self.failure is not None:
                    raise EngineDied(self.failure)
                first = len(context) == len(generation.prompt) + len(generation.committed)
                count = 1 if first else min(2, left)
                tokens = continuation(context, count, sampling)
                if not first and not wishes.trial:
                    self.tell(step(round_note(wishes.session, len(context), 1, committed=count)))
                context += tokens
                left -= count
                yield Output(
                    token_ids=tuple(tokens),
                    cached_tokens=2,
                    finish=None if left else FinishReason.LENGTH,
                )
                if self.held is not None:
                    await self.held.wait()
                await asyncio.sleep(0)
        finally:
            del self.running[name]

    async def take_curve(self, curve: Curve | None) -> None:
        self.curve = curve

    async def try_drafts(self, num_tokens: int) -> None:
        self.trial_tokens = num_tokens

    def shutdown(self) -> None:
        self.ended = True
