"""TLS: where the certificates of a service's processes come from."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dspark_operator.spec.base import ObjectName, Part, rules

_ONE = "exactly one of secretName and issuerRef must be set"
_RENEWAL = "renewBeforeHours must be below durationHours"


class IssuerRef(Part):
    """An issuer of cert-manager that signs for this service alone."""

    name: ObjectName
    """Its name."""
    kind: str = Field(default="Issuer", pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=63)
    """Issuer of this namespace, ClusterIssuer, or a kind of ``group``."""
    group: str = Field(default="cert-manager.io", pattern=r"^[a-z0-9][-.a-z0-9]*$", max_length=253)
    """API group of the kind."""


class TlsSpec(Part):
    """Mutual TLS between the processes of the service, and HTTPS on their HTTP ports."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.secretName) != has(self.issuerRef)", _ONE),
            ("self.renewBeforeHours < self.durationHours", _RENEWAL),
        )
    )
    authority_config_map_name: ObjectName
    """ConfigMap with the key ``ca.crt``: the service's own authority.  Whoever has a certificate of
    it is let in, and the operator knows gateway and controller by it.  Several, while one
    replaces another."""
    secret_name: ObjectName | None = None
    """Secret with ``tls.crt`` and ``tls.key`` for all processes: for the DNS name dspark.internal,
    for servers and for clients."""
    issuer_ref: IssuerRef | None = None
    """Issuer of cert-manager, which is asked for one certificate for each role."""
    duration_hours: int = Field(default=2160, ge=1, le=87600)
    """With issuerRef: life of a certificate."""
    renew_before_hours: int = Field(default=720, ge=1, le=87600)
    """With issuerRef: how long before its end it is replaced."""
    plain_http: list[Literal["gateway", "api", "metrics"]] = Field(default=[], max_length=3)
    """HTTP ports without TLS: gateway (behind what ends TLS), api (control API and dashboard),
    metrics (for a Prometheus without the Prometheus operator)."""

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if (self.secret_name is None) == (self.issuer_ref is None):
            raise ValueError(_ONE)
        if self.renew_before_hours >= self.duration_hours:
            raise ValueError(_RENEWAL)
        return self
