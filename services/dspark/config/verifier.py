"""Settings of the verifier pool."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dspark.config.base import Settings


class DraftingSettings(Settings):
    """The verifier's side of drafting."""

    deadline_floor_s: float = Field(default=0.05, gt=0)
    """A draft is waited for at least this long."""
    deadline_factor: float = Field(default=3.0, ge=1)
    """... or this many times the smoothed round trip, whichever is longer."""
    seed_chunk_bytes: int = Field(default=256 * 1024, ge=4096)
    """Largest message of a seeding stream."""
    max_opening_bytes: int = Field(default=256 * 1024, ge=0)
    """A prompt with no more bytes of rows rides on its session's first round, unseeded."""
    reconnect_s: float = Field(default=0.5, gt=0)
    """Pause before a lost drafter is tried again."""
    skip: bool = True
    """Do not draft, for a while, sessions whose drafts cost the others more than they bring."""
    max_sessions_per_drafter: int = Field(default=256, ge=1)
    """Sessions that one verifier places on one drafter."""


class GuardSettings(Settings):
    """The online guard: finished requests are decoded again without speculation, when idle."""

    share: float = Field(default=0.001, ge=0, le=1)
    """Share of the requests that is checked; 0 switches the guard off."""
    max_candidates: int = Field(default=32, ge=1)
    """Requests chosen and not checked yet; one more is not chosen (and counted as dropped)."""
    max_violations: int = Field(default=3, ge=1)
    """After so many, speculation is off in this pool until the replica restarts."""
    false_alarm: float = Field(default=1e-6, gt=0, lt=1)
    """Chance that sampling by rejection is ever accused wrongly, over an unlimited run."""


class VerifierSettings(Settings):
    """A verifier replica."""

    pool: str = "verifier"
    """Pool name."""
    num_pages: int = Field(default=1024, ge=8)
    """KV pages of one replica."""
    max_sessions: int = Field(default=64, ge=1)
    """Sessions decoded at once."""
    max_waiting: int = Field(default=128, ge=0)
    """Sessions that may wait for pages; one more is refused with RESOURCE_EXHAUSTED."""
    max_batch_tokens: int = Field(default=640, ge=8)
    """Tokens in one target forward; at least ``max_sessions``: each session has one of them.

    With ``(1 + gamma) x max_sessions`` and some chunks of prompts no draft is cut for want of room.
    """
    local_prefill_tokens: int = Field(default=32, ge=0)
    """Prompts up to this long are run by the verifier itself."""
    prefill_chunk_tokens: int = Field(default=64, ge=1)
    """Prompt tokens of one session in one step, where the verifier runs the prompt."""
    cohorts: Literal["auto", 1, 2] = "auto"
    """Groups of sessions that alternate: with 2 one is drafted while the other is verified;
    auto chooses by the profiled curves."""
    prefill_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline of a remote prefill."""
    prefill_attempts: int = Field(default=2, ge=1)
    """Prefill replicas tried before the verifier runs the prompt itself."""
    drain_s: float = Field(default=20.0, ge=0)
    """How long sessions may finish after a stop."""
    profile_at_start: bool = True
    """Measure the step curve before announcing readiness."""
    profile_repeats: int = Field(default=3, ge=1)
    """Runs of each size; the curve keeps the median."""
    drafting: DraftingSettings = DraftingSettings()
    """The verifier's side of drafting."""
    guard: GuardSettings = GuardSettings()
    """The online guard of losslessness."""

    @model_validator(mode="after")
    def _every_session_fits_a_step(self) -> Self:
        if self.max_sessions > self.max_batch_tokens:
            raise ValueError(
                f"max_sessions {self.max_sessions} is more than max_batch_tokens "
                f"{self.max_batch_tokens}: a step has at least one token of every session"
            )
        return self
