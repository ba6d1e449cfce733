"""Settings of the prefill pool."""

from pydantic import Field

from dspark.config.base import Settings


class PrefillSettings(Settings):
    """A prefill replica."""

    pool: str = "prefill"
    """Pool name."""
    num_pages: int = Field(default=512, ge=8)
    """KV pages of one replica."""
    chunk_tokens: int = Field(default=64, ge=1)
    """Prompt tokens in one forward and one message; a multiple of the page size."""
    max_waiting: int = Field(default=64, ge=1)
    """Prompts that may wait; one more is refused with RESOURCE_EXHAUSTED."""
    drain_s: float = Field(default=20.0, ge=0)
    """How long running prompts may finish after a stop."""
