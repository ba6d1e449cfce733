"""Settings of the gateway."""

from typing import Literal

from pydantic import Field

from dspark.config.base import Settings
from dspark.config.model import ModelSettings
from dspark.config.tls import HttpsSettings, TlsSettings, https_of


class GatewaySettings(Settings):
    """The OpenAI-compatible HTTP server."""

    host: str = "127.0.0.1"
    """Interface to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on."""
    controller: str = "127.0.0.1:9900"
    """Address of the controller."""
    tls: TlsSettings | None = None
    """Mutual TLS with controller and verifiers; null: plaintext."""
    https: HttpsSettings | None = None
    """Certificate that clients are shown, for instance one of a public authority; null: that of
    ``tls``, and plain HTTP without ``tls`` or where ``tls.plain_http`` has ``gateway``."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest life of one request."""
    max_concurrent: int = Field(default=256, ge=1)
    """Requests in flight; one more is answered 429."""
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """Largest request body."""
    max_choices: int = Field(default=8, ge=1)
    """Largest n (times the number of prompts)."""
    speculation_mode: Literal["coupled", "rejection"] = "coupled"
    """How drafts are judged for requests with neither ``speculation.mode`` nor a seed."""
    default_chat_tokens: int = Field(default=512, ge=1)
    """Most tokens of a chat answer when the client names no bound."""
    failover_attempts: int = Field(default=3, ge=1)
    """Verifiers tried for one stream before the client sees an error."""
    wait_for_verifier_s: float = Field(default=10.0, ge=0)
    """How long a stream that lost its verifier waits for another one."""
    fleet_file: str | None = None
    """Where the last fleet is kept, for a start without a controller; null for nowhere."""
    stop_grace_s: float = Field(default=0.0, ge=0)
    """After a stop: how long new requests are still served while load balancers notice."""
    drain_s: float = Field(default=10.0, ge=0)
    """After that: how long open streams may finish."""

    def served_with(self) -> HttpsSettings | None:
        """Return the certificate of the HTTP side, or None for plain HTTP."""
        return https_of("gateway", self.tls, self.https)


class GatewayProcess(Settings):
    """What ``python -m dspark.gateway`` is given."""

    gateway: GatewaySettings = GatewaySettings()
    """The server."""
    model: ModelSettings = ModelSettings()
    """Of it, the gateway uses ``name`` and ``target`` (tokenizer and context length)."""
