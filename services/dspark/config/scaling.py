"""Settings of a pool that scales by its load."""

from typing import Self

from pydantic import Field, model_validator

from dspark.config.base import Settings


class ScalingSettings(Settings):
    """How a pool follows its load; what concerns another role is not looked at."""

    up_after_s: float = Field(default=2.0, ge=0)
    """The load must ask for more replicas for this long."""
    down_after_s: float = Field(default=60.0, ge=0)
    """The load must do with fewer replicas for this long."""
    idle_s: float = Field(default=300.0, ge=0)
    """Drafters, with ``min_replicas`` 0: without a session for this long the last one goes."""
    utilisation: float = Field(default=0.8, gt=0, le=1)
    """Share of a verifier's pages, of the sessions that it can keep its promise to, or of a prefill
    replica's tokens a second, to plan with."""
    reserve: float = Field(default=0.1, ge=0)
    """This share more load must still fit before a replica is given up."""
    ttft_s: float = Field(default=1.0, gt=0)
    """Prefill: prompts that wait are to be computed within this."""
    tokens_per_s_per_user: float | None = Field(default=None, gt=0)
    """Verifiers: what each session is promised; a policy's ``min_tokens_per_s`` goes before it."""
    max_loss: float = Field(default=0.05, gt=0, lt=1)
    """Drafters: the share of the tokens a second that too few of them may cost."""


class PoolScaling(ScalingSettings):
    """The same with the pool's limits, as the controller needs it."""

    min_replicas: int = Field(default=0, ge=0)
    """Never fewer."""
    max_replicas: int = Field(ge=1)
    """Never more."""

    @model_validator(mode="after")
    def _limits_hold(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            )
        return self
