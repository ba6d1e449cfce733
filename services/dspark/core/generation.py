"""A generation: what was asked for, and what it took."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dspark.core.logits import MAX_TOP_LOGPROBS, NO_RULES, LogitRules
from dspark.core.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One choice of one request, as a verifier receives it.

    Attributes:
        request_id: For logs and traces.
        prompt: Prompt token ids, at least one.
        committed: Tokens of this generation that were already delivered elsewhere.
        max_new_tokens: Bound on the generation, ``committed`` included.
        sampling: How tokens are chosen.
        stop_tokens: The first of these ends the generation and is its last token.
        speculate: Whether to draft; never changes the output.
        max_draft_tokens: Largest draft; 0 for the drafter's block size.
        trace: Whether each step's draft is shown with what became of it.
        rules: What is done to the logits.
        priority: Lower ones are admitted first, and policies may weigh them.
        top_logprobs: How many alternatives are reported with each token's log-probability; None
            for no log-probabilities.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling
    committed: tuple[int, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    speculate: bool = True
    max_draft_tokens: int = 0
    trace: bool = False
    rules: LogitRules = NO_RULES
    top_logprobs: int | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt is empty: send at least one token")
        if self.max_new_tokens <= len(self.committed):
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens} leaves nothing to generate after "
                f"{len(self.committed)} committed tokens"
            )
        if self.max_draft_tokens < 0:
            raise ValueError(f"max_draft_tokens {self.max_draft_tokens} is negative")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise ValueError(f"top_logprobs {self.top_logprobs} is outside 0..{MAX_TOP_LOGPROBS}")
        if self.rules.grammar is not None and not self.stop_tokens:
            raise ValueError("a grammar needs stop tokens: one of them ends the output")

    @property
    def total_tokens(self) -> int:
        """Longest the sequence can become."""
        return len(self.prompt) + self.max_new_tokens

    @property
    def wants_processor(self) -> bool:
        """Whether its logits are changed or reported."""
        return self.top_logprobs is not None or not self.rules.neutral


@dataclass(slots=True)
class GenerationStats:
    """Counts over one generation's verify steps; see verify.proto."""

    block_size: int
    steps: int = 0
    drafted_steps: int = 0
    plain_steps: int = 0
    drafted_tokens: int = 0
    verified_draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    cached_prompt_tokens: int = 0
    row_bytes: int = 0
    draft_bytes: int = 0
    accepted_histogram: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.accepted_histogram:
            self.accepted_histogram = [0] * (self.block_size + 1)

    def count(self, *, drafted: int, verified: int, accepted: int) -> None:
        """Fold in one step."""
        self.steps += 1
        if drafted:
            self.drafted_steps += 1
        else:
            self.plain_steps += 1
        self.drafted_tokens += drafted
        self.verified_draft_tokens += verified
        self.accepted_draft_tokens += accepted
        self.accepted_histogram[accepted] += 1


def mean_accepted_length(accepted: Sequence[int]) -> float:
    """Return tau over rounds: accepted drafts plus the target's own token."""
    if not accepted:
        raise ValueError("no rounds: there is no mean accepted length")
    return 1.0 + sum(accepted) / len(accepted)
