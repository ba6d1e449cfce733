"""Paced engines: step times that are slept, not computed."""

from pydantic import Field

from dspark.config.base import Settings


class EnginePace(Settings):
    """Seconds of one engine's step, as a roofline.

    A step of n tokens (rounded up to ``tile_tokens``) over a context of c tokens in all takes
    ``fixed_s + max(weights_s, n * token_s) + c * context_token_s``.
    """

    fixed_s: float = Field(default=0.0, ge=0)
    """Launches and host work: whatever a step costs at any size."""
    weights_s: float = Field(gt=0)
    """Reading all weights once: what a small step is bound by."""
    token_s: float = Field(gt=0)
    """Arithmetic of one token: what a large step is bound by."""
    context_token_s: float = Field(default=0.0, ge=0)
    """Reading one token's keys and values."""
    tile_tokens: int = Field(default=1, ge=1)
    """Batches are padded to a multiple of this."""

    def step_seconds(self, *, tokens: int, context_tokens: int) -> float:
        """Return the seconds of a step.

        Args:
            tokens: In the batch.
            context_tokens: Cached tokens of all its sessions together.
        """
        padded = -(-tokens // self.tile_tokens) * self.tile_tokens
        compute_s = max(self.weights_s, padded * self.token_s)
        return self.fixed_s + compute_s + context_tokens * self.context_token_s


class PacedSettings(Settings):
    """Two paces and how good drafts are."""

    name: str
    """Which device and model the paces are of; shown wherever a curve's device is."""
    target: EnginePace
    """Prefill and verify steps."""
    drafter: EnginePace
    """Draft steps; its tokens are drafted ones."""
    dilation: float = Field(default=1.0, gt=0)
    """Every pace is stretched by this, so that the host's own work weighs as little as it would
    beside that device."""
    acceptance: tuple[float, ...] = (0.93, 0.82, 0.6)
    """Chance that a draft is right if those before it were, for each kind of text; a session is of
    one kind."""
