"""Settings of the gateway."""

from pydantic import Field

from dspark.config.base import Settings


class GatewaySettings(Settings):
    """The OpenAI-compatible HTTP server."""

    host: str = "127.0.0.1"
    """Interface to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on."""
    controller: str = "127.0.0.1:9900"
    """Address of the controller."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest life of one request."""
    max_concurrent: int = Field(default=256, ge=1)
    """Requests in flight; one more is answered 429."""
    max_choices: int = Field(default=8, ge=1)
    """Largest n."""
    failover_attempts: int = Field(default=3, ge=1)
    """Verifiers tried for one stream before the client sees an error."""
    wait_for_verifier_s: float = Field(default=10.0, ge=0)
    """How long a stream that lost its verifier waits for another one."""
    drain_s: float = Field(default=10.0, ge=0)
    """How long open streams may finish after a stop."""
