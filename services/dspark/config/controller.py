"""Settings of the controller."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dspark.config.base import Settings
from dspark.config.scaling import PoolScaling
from dspark.config.tls import HttpsSettings, TlsSettings, https_of


class ApiToken(Settings):
    """A token of the control API; only its digest is kept (`dspark budget token` makes both)."""

    name: str = Field(min_length=1, max_length=100)
    """Author of what is changed with it."""
    role: Literal["viewer", "operator", "admin"]
    """viewer reads; operator changes policies; admin also takes a pool's budget off (shadow)."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the token, in hexadecimal."""


class ControllerSettings(Settings):
    """Registry, planning and broadcast."""

    host: str = "127.0.0.1"
    """Interface to listen on."""
    port: int = Field(default=9900, ge=0, le=65535)
    """gRPC port."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Prometheus port; 0 lets the system choose."""
    api_host: str = "127.0.0.1"
    """Interface of the control API; one that other machines reach needs ``api_tokens``."""
    api_port: int = Field(default=0, ge=0, le=65535)
    """Port of the control API (HTTP); 0 lets the system choose."""
    api_tokens: tuple[ApiToken, ...] = Field(default=(), max_length=1000)
    """Who may use the control API; empty: everybody on this machine."""
    tls: TlsSettings | None = None
    """Mutual TLS with replicas and gateways; null: plaintext."""
    https: HttpsSettings | None = None
    """Certificate of the control API and the dashboard; null: that of ``tls``, and plain HTTP
    without ``tls`` or where ``tls.plain_http`` has ``api``."""
    gateway_url: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+$")
    """Base URL of the gateway, for requests that people try out on the dashboard; null: none.
    ``dspark up`` names its own."""
    gateway_certificate: Path | None = None
    """With an https ``gateway_url``: the file (PEM) of the gateway's certificate, and only that one
    is taken. null: one for the name in the URL, of ``tls.authority`` or one the system knows."""
    tick_s: float = Field(default=0.5, gt=0)
    """Seconds between plans."""
    report_interval_s: float = Field(default=0.5, gt=0)
    """How often replicas report."""
    lease_s: float = Field(default=3.0, gt=0)
    """A replica silent for this long is forgotten."""
    settle_s: float = Field(default=5.0, ge=0)
    """After a restart the fleet is published once the wanted replicas are back, or after this long:
    until then watchers keep what they know, instead of an empty fleet."""
    budget_ttl_s: float = Field(default=5.0, gt=0)
    """A budget not renewed for this long is no longer used."""
    reservoir_size: int = Field(default=512, ge=16)
    """Committed survival vectors kept for each verifier pool."""
    min_samples: int = Field(default=32, ge=1)
    """Vectors needed before a budget trims anything."""
    activation_sessions: int = Field(default=2, ge=1)
    """Below this many sessions in a step everything drafted is verified."""
    dwell_s: float = Field(default=2.0, ge=0)
    """A budget table is reconsidered once in this long."""
    max_sessions: int = Field(default=64, ge=1, le=1024)
    """Largest number of sessions in a budget table; the last entry also counts for more."""
    max_cohorts: Literal[1, 2] = 2
    """2 where verifiers may alternate two halves of their sessions (their ``cohorts`` is auto or
    2); 1 where they never do."""
    off_gain: float = Field(default=0.05, ge=0)
    """Drafting stops only where going without it gives this share more tokens a second."""
    initial_replicas: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Replicas wanted in each pool until somebody asks for another number.  A pool that is not
    listed wants the most replicas that were ready together."""
    scaling: dict[str, PoolScaling] = Field(default_factory=dict)
    """How pools follow their load, by pool name; one that is not listed is scaled by hand."""
    store: str = "memory"
    """Where policies and wanted replicas survive a restart: ``memory``, a path of an SQLite file
    (one controller), or a Redis of several controllers as ``redis://`` or ``rediss://`` URL, whose
    password may come from DSPARK_REDIS_PASSWORD."""
    store_prefix: str = Field(default="dspark", pattern=r"^[\w.:/-]{1,200}$")
    """With a Redis: begins every key; systems with a Redis in common need one each."""
    leader_lease_s: float = Field(default=2.0, ge=0.5)
    """With a Redis: a standby takes over when the leader was silent for this long."""

    def api_served_with(self) -> HttpsSettings | None:
        """Return the certificate of the control API, or None for plain HTTP."""
        return https_of("api", self.tls, self.https)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.lease_s < 2 * self.report_interval_s:
            raise ValueError(
                f"lease_s {self.lease_s} must be at least twice report_interval_s "
                f"{self.report_interval_s}: else one late report loses a replica"
            )
        if self.budget_ttl_s < 2 * self.tick_s:
            raise ValueError(
                f"budget_ttl_s {self.budget_ttl_s} must be at least twice tick_s {self.tick_s}: "
                "else budgets expire between renewals"
            )
        if not self.api_tokens and self.api_host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(
                f"api_host {self.api_host} is reached from other machines: set api_tokens "
                "(`dspark budget token` makes one), or api_host to 127.0.0.1"
            )
        return self
