"""vLLM's engine as the replica sees it."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from dspark.core.curve import Curve
from dspark.core.generation import Generation
from dspark.core.logits import TokenLogprobs
from dspark.core.session import FinishReason
from dspark.engines.vllm.wishes import Wishes


class EngineDied(Exception):
    """The engine is no more; another replica can go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What came of a generation since the last one.

    Attributes:
        token_ids: New tokens, of one step or of several.
        logprobs: One for each of them, where they were asked for.
        cached_tokens: Tokens of the prompt that were found in the prefix cache.
        finish: Why it ended, on the last one.
        accepted_histogram: On the last one, where vLLM itself drafts: steps by accepted drafts.
        verified_tokens: The same: drafts that it verified.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    cached_tokens: int = 0
    finish: FinishReason | None = None
    accepted_histogram: tuple[int, ...] = ()
    verified_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What fits.

    Attributes:
        num_blocks: KV blocks.
        block_tokens: Tokens in one of them.
        max_context_tokens: Longest sequence.
    """

    num_blocks: int
    block_tokens: int
    max_context_tokens: int

    @property
    def tokens(self) -> int:
        """Longest sequence that fits even alone."""
        return min(self.num_blocks * self.block_tokens, self.max_context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnStep:
    """A step as vLLM's own statistics have it, where no proposer of ours tells of it.

    Attributes:
        prompt_tokens: Of prompts that were computed.
        committed_tokens: Tokens that it committed.
        session_steps: Requests that were decoded.
        drafted_steps: Of those, the ones with a draft.
        verified_tokens: Drafts that it verified.
        accepted_at: How often the draft at each position was accepted.
        step_s: Since the step before; 0 where the engine was idle.
    """

    prompt_tokens: int
    committed_tokens: int
    session_steps: int
    drafted_steps: int
    verified_tokens: int
    accepted_at: tuple[int, ...]
    step_s: float


@dataclass(slots=True)
class Gauges:
    """What vLLM's scheduler said last; what is counted in metrics is so while ``serving``."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    serving: bool = False
    own_steps: Callable[[OwnStep], None] | None = None
    """Called with each step, where set."""


class EnginePort(Protocol):
    """One engine."""

    @property
    def version(self) -> str:
        """Of vLLM."""

    @property
    def capacity(self) -> Capacity:
        """What fits."""

    @property
    def gauges(self) -> Gauges:
        """What its scheduler said last."""

    @property
    def failure(self) -> str | None:
        """Why it is no more, or None."""

    def generate(
        self, generation: Generation, wishes: Wishes, *, name: str
    ) -> AsyncGenerator[Output, None]:
        """Yield what comes; closing it aborts it.

        Raises:
            ValueError: vLLM does not take it, or gave it up.
            EngineDied: See there.
        """
        ...

    async def take_curve(self, curve: Curve | None) -> None:
        """Let drafts be admitted by this curve, and by budgets computed from it."""

    async def try_drafts(self, num_tokens: int) -> None:
        """Let requests on trial have drafts of this length."""

    def shutdown(self) -> None:
        """End its processes."""
