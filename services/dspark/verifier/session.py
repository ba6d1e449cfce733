"""The verifier's record of one session; touched by the engine's thread only."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import SessionId
from dspark.core.logits import LogitsProcessor
from dspark.core.pages import PageTable
from dspark.core.session import Phase, move
from dspark.core.skip import SkipState
from dspark.verifier.events import Sink


@dataclass(slots=True)
class VerifierSession:
    """One generation under way.

    Attributes:
        id: The session.
        generation: What was asked for.
        sink: Where tokens go.
        tokens: Prompt, tokens committed elsewhere, tokens committed here.
        stats: Counts for the client.
        arrived_s: When it was submitted.
        processor: What is done to its logits.
        prefix_hashes: Of the pages that it may share: all full ones before its last token.
        phase: Where it stands.
        table: Its pages, from PREFILLING on.
        computed: Positions whose KV (and rows) are in the pages: 0 .. computed - 1.
        local: Whether its prompt runs here rather than on a prefill replica.
        attempt: Number of the prefill attempt.
        cohort: Which of the alternating groups it steps with; None before its first step.
        skip: Whether drafting it pays.
        total_tokens: Longest that ``tokens`` can become.
    """

    id: SessionId
    generation: Generation
    sink: Sink
    tokens: list[int]
    stats: GenerationStats
    arrived_s: float
    processor: LogitsProcessor | None = None
    prefix_hashes: tuple[bytes, ...] = ()
    phase: Phase = Phase.WAITING
    table: PageTable | None = None
    computed: int = 0
    local: bool = False
    attempt: int = 0
    cohort: int | None = None
    skip: SkipState = field(default_factory=SkipState)
    total_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.total_tokens = self.generation.total_tokens

    @property
    def anchor_position(self) -> int:
        """Position of the last committed token, whose KV is not computed yet."""
        return len(self.tokens) - 1

    @property
    def remaining(self) -> int:
        """How many more tokens may be committed."""
        return self.total_tokens - len(self.tokens)

    @property
    def pages(self) -> tuple[int, ...]:
        """Its pages."""
        assert self.table is not None, "a session without pages has no place in a batch"
        return self.table.pages

    def enter(self, phase: Phase) -> None:
        """Move to ``phase`` along the transition table."""
        self.phase = move(self.phase, phase)

    def draft_bound(self, gamma: int) -> int:
        """Most drafts worth asking for: the last token is always the target's own."""
        most = min(gamma, self.generation.max_draft_tokens or gamma)
        left = self.total_tokens - len(self.tokens) - 1
        return most if most < left else max(0, left)


def mean_context_tokens(sessions: Sequence[VerifierSession]) -> float:
    """Return the mean length of the sessions' texts; 0 without sessions."""
    return sum(len(session.tokens) for session in sessions) / max(1, len(sessions))
