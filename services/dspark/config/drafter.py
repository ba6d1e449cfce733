"""Settings of the drafter pool."""

from pydantic import Field

from dspark.config.base import Settings
from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings


class DrafterSettings(Settings):
    """A drafter replica."""

    pool: str = "drafter"
    """Pool name."""
    max_sessions: int = Field(default=256, ge=1)
    """Sessions whose context is cached; one more is answered FULL."""
    max_context_tokens: int = Field(default=131072, ge=1024)
    """Cached rows over all sessions."""
    max_batch_sessions: int = Field(default=32, ge=1)
    """Sessions drafted in one forward."""
    max_pending_rounds: int = Field(default=64, ge=1)
    """Rounds that may wait over all verifiers; an older one of the same verifier is replaced."""
    max_q_tokens: int = Field(default=64, ge=1)
    """Rejection sampling: tokens that a draft's distribution is cut to before it is drawn from."""
    profile_at_start: bool = True
    """Measure the cost of a batch before announcing readiness."""
    drain_s: float = Field(default=5.0, ge=0)
    """How long rounds are still answered after a stop."""


class LoneEndpoint(EndpointSettings):
    """Where a drafter listens that engines are told of by its address."""

    controller: str = ""
    """Address of a controller, where one is to know of it too."""


class DrafterProcess(Settings):
    """What ``python -m dspark.drafter`` is given."""

    model: ModelSettings = ModelSettings()
    """The pair; of the target only headers are read."""
    endpoint: LoneEndpoint = LoneEndpoint()
    """Where to listen."""
    drafter: DrafterSettings = DrafterSettings()
    """The replica."""
