"""Settings of the controller."""

from pydantic import Field

from dspark.config.base import Settings


class ControllerSettings(Settings):
    """Registry, planning and broadcast."""

    host: str = "127.0.0.1"
    """Interface to listen on."""
    port: int = Field(default=9900, ge=0, le=65535)
    """gRPC port."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Prometheus port; 0 lets the system choose."""
    tick_s: float = Field(default=0.5, gt=0)
    """Seconds between plans."""
    report_interval_s: float = Field(default=0.5, gt=0)
    """How often replicas report."""
    lease_s: float = Field(default=3.0, gt=0)
    """A replica silent for this long is forgotten."""
    budget_ttl_s: float = Field(default=5.0, gt=0)
    """A budget not renewed for this long is no longer used."""
    reservoir_size: int = Field(default=512, ge=16)
    """Committed survival vectors kept for each verifier pool."""
    min_samples: int = Field(default=32, ge=1)
    """Vectors needed before a budget trims anything."""
    activation_sessions: int = Field(default=2, ge=1)
    """Below this many sessions in a step everything drafted is verified."""
    store: str = "memory"
    """Where wanted replicas survive a restart: ``memory`` or a path of an SQLite file."""
