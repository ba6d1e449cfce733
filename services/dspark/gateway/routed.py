"""A generation on its way to a verifier, and what comes back."""

from dataclasses import dataclass

from dspark.core.draft import JudgedDraft
from dspark.core.generation import Generation, GenerationStats
from dspark.core.logits import TokenLogprobs
from dspark.core.session import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedGeneration:
    """A generation and what choosing and calling a verifier needs besides.

    Attributes:
        generation: What to generate.
        model: Name that the client asked for.
        affinity_key: Generations with equal keys are best served by the same verifier.
        timeout_s: Longest life.
        metadata: Passed on with the call (trace context).
    """

    generation: Generation
    model: str
    affinity_key: str | None = None
    timeout_s: float = 600.0
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Newly committed tokens.

    Attributes:
        token_ids: In order; may be empty.
        finish: Set on the last batch only.
        stats: Counts of the generation, where the verifier gave them.
        logprobs: One for each token, where they were asked for.
        draft: What was drafted for them, where a trace was asked for.
    """

    token_ids: tuple[int, ...]
    finish: FinishReason | None = None
    stats: GenerationStats | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    draft: JudgedDraft | None = None
