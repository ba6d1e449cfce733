"""Where a replica listens, and what it calls itself."""

from pydantic import Field

from dspark.config.base import Settings
from dspark.config.tls import TlsSettings


class EndpointSettings(Settings):
    """A replica's own gRPC server."""

    bind_host: str = "127.0.0.1"
    """Interface to listen on."""
    advertise_host: str = "127.0.0.1"
    """Host that other processes are told; ``auto`` takes the address of the Ray node."""
    port_min: int = Field(default=0, ge=0, le=65535)
    """First port to try; 0 lets the system choose."""
    port_max: int = Field(default=0, ge=0, le=65535)
    """Last port to try."""
    max_message_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)
    """Largest gRPC message accepted."""
    metrics: bool = True
    """Serve Prometheus metrics on a port of its own."""
    metrics_port_min: int = Field(default=0, ge=0, le=65535)
    """First port to try for metrics; 0 lets the system choose."""
    metrics_port_max: int = Field(default=0, ge=0, le=65535)
    """Last port to try for metrics."""
    controller: str = "127.0.0.1:9900"
    """Address of the controller; empty announces nothing."""
    tls: TlsSettings | None = None
    """Mutual TLS with all other processes; null: plaintext, for trusted networks only."""
    call_timeout_s: float = Field(default=10.0, gt=0)
    """Deadline of unary calls."""
