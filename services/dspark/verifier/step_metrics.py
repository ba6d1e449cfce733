"""Counters of verify steps: bound once, and moved once a step, not once a session or a token."""

from collections.abc import Sequence

from dspark.telemetry import metrics
from dspark.verifier.window import Sums


class StepMetrics:
    """The counters of one verifier."""

    def __init__(self, *, pool: str, model_name: str, block_size: int) -> None:
        self._step_tokens = metrics.VERIFY_STEP_TOKENS.labels(pool)
        self._step_seconds = metrics.VERIFY_STEP_SECONDS.labels(pool)
        self._verified = metrics.DRAFT_TOKENS.labels(pool, "verified")
        self._trimmed = metrics.DRAFT_TOKENS.labels(pool, "trimmed")
        self._wasted = metrics.DRAFT_TOKENS.labels(pool, "wasted")
        self._skipped = metrics.DRAFT_REQUESTS.labels(pool, "skipped")
        self._drafts = metrics.VLLM_SPEC_DRAFTS.labels(model_name)
        self._draft_tokens = metrics.VLLM_SPEC_DRAFT_TOKENS.labels(model_name)
        self._accepted = metrics.VLLM_SPEC_ACCEPTED.labels(model_name)
        self._accepted_at = [
            metrics.VLLM_SPEC_ACCEPTED_PER_POS.labels(model_name, str(position))
            for position in range(block_size)
        ]
        self._generated = metrics.VLLM_GENERATION_TOKENS.labels(model_name)

    def count(self, sums: Sums, accepted_at: Sequence[int]) -> None:
        """Fold in one step's sums, and how often the draft at each position was accepted."""
        self._step_tokens.observe(sums.batch_tokens)
        self._step_seconds.observe(sums.step_s)
        if sums.committed_tokens:
            self._generated.inc(sums.committed_tokens)
        if sums.skipped_sessions:
            self._skipped.inc(sums.skipped_sessions)
        if not sums.drafted_steps:
            return
        self._verified.inc(sums.verified_draft_tokens)
        self._trimmed.inc(sums.proposed_tokens - sums.verified_draft_tokens)
        self._wasted.inc(sums.verified_draft_tokens - sums.accepted_draft_tokens)
        self._drafts.inc(sums.drafted_steps)
        self._draft_tokens.inc(sums.verified_draft_tokens)
        self._accepted.inc(sums.accepted_draft_tokens)
        for position, count in enumerate(accepted_at):
            if count:
                self._accepted_at[position].inc(count)
