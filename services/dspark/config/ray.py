"""Settings of Ray, which places the pools and keeps them alive."""

from pydantic import Field

from dspark.config.base import Settings


class RaySettings(Settings):
    """A cluster of our own on this machine, or an existing one."""

    address: str | None = None
    """Cluster to join (``auto`` or ``host:port``); null starts one here and ends it with us."""
    num_cpus: int = Field(default=1, ge=1)
    """CPUs that our own cluster advertises (pools reserve shares of them)."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources that our own cluster advertises."""
    object_store_mb: int = Field(default=80, ge=80)
    """Ray's object store; no tensor of ours goes through it."""
    health_check_period_s: float = Field(default=2.0, gt=0)
    """How often a replica is asked whether its engine lives."""
    health_check_timeout_s: float = Field(default=20.0, gt=0)
    """A replica that does not answer for this long is replaced."""
    upscale_delay_s: float = Field(default=1.0, ge=0)
    """How long a wish for more replicas must last."""
    downscale_delay_s: float = Field(default=1.0, ge=0)
    """How long a wish for fewer replicas must last."""
    stop_margin_s: float = Field(default=10.0, ge=1)
    """How much longer than its drain a replica may take to end before it is killed."""
