"""What reaches the engine's thread: requests, cancellations, prefilled chunks, drafts, budgets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dspark.core.draft import JudgedDraft, Rows
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import SessionId
from dspark.core.logits import LogitsProcessor, TokenLogprobs
from dspark.core.session import FinishReason
from dspark.drafting.events import DraftEvent
from dspark.verifier.target_port import Kv


class Sink(Protocol):
    """Where a session's tokens go; called from the engine's thread, never blocks."""

    def commit(
        self,
        tokens: tuple[int, ...],
        stats: GenerationStats,
        logprobs: tuple[TokenLogprobs, ...] = (),
        draft: JudgedDraft | None = None,
    ) -> None:
        """Newly committed tokens, and the counts so far (the engine goes on changing them).

        ``logprobs`` has one entry a token where they were asked for, ``draft`` what was drafted
        for them where a trace was.
        """

    def finish(self, reason: FinishReason, stats: GenerationStats) -> None:
        """The generation is complete."""

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        """The generation cannot go on here, or not ``anywhere``: no other replica helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A generation to admit."""

    session: SessionId
    generation: Generation
    sink: Sink
    arrived_s: float
    processor: LogitsProcessor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The client is gone."""

    session: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """A chunk of a prompt from a prefill replica.

    Attributes:
        session: The session.
        attempt: Which attempt it belongs to; chunks of an older one are dropped.
        start: Position of the first token covered.
        num_tokens: Tokens covered.
        kv: Their KV.
        rows: Their context rows, where they were asked for.
        last_logits: Logits [vocab] of the prompt's last position; last chunk only.
        taken: Called once the chunk is copied: the stream may go on.
    """

    session: SessionId
    attempt: int
    start: int
    num_tokens: int
    kv: Kv
    rows: Rows | None
    last_logits: NDArray[np.float32] | None
    taken: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFailed:
    """No prefill replica could run the prompt; the verifier runs it itself."""

    session: SessionId
    attempt: int
    reason: str


EngineEvent = Submitted | Cancelled | Prefilled | PrefillFailed | DraftEvent


class PrefillPort(Protocol):
    """Starts remote prefills; chunks come back as events."""

    def available(self) -> bool:
        """Whether any prefill replica is ready."""

    def start(
        self,
        session: SessionId,
        attempt: int,
        request_id: str,
        tokens: tuple[int, ...],
        held_hashes: tuple[bytes, ...],
    ) -> None:
        """Begin pulling a prompt (any thread)."""

    def cancel(self, session: SessionId) -> None:
        """Stop pulling it (any thread)."""
