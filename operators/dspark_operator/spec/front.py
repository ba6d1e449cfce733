"""Gateway and controller: the two processes outside Ray."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dspark.config.controller import ApiToken, ControllerSettings
from dspark.config.gateway import GatewaySettings
from dspark_operator.document import Json
from dspark_operator.spec.base import (
    ObjectName,
    Part,
    Quantity,
    list_map,
    refuse_repeated,
    rules,
)
from dspark_operator.spec.pods import Placement, Resources
from dspark_operator.spec.settings_view import settings_from

GATEWAY_RESERVED = ("host", "port", "controller", "fleet_file", "tls", "https")
"""Gateway settings that the operator sets itself."""

CONTROLLER_RESERVED = (
    "host", "port", "metrics_port", "api_host", "api_port", "api_tokens", "store", "store_prefix",
    "initial_replicas", "scaling", "tls", "https", "gateway_url", "gateway_certificate",
)  # fmt: skip
"""Controller settings that the operator sets itself."""

_SCALE = "autoscaling.minReplicas must not be above autoscaling.maxReplicas"
_EMBEDDED = "an embedded store belongs to one controller: replicas must be 1"
_NO_REDIS = "type Redis needs redis.address"

OPERATORS_TOKEN = "dspark-operator"
"""Name of the operator's own token, and so the author of what it changes."""


class GatewayAutoscaling(Part):
    """A HorizontalPodAutoscaler on CPU."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.minReplicas <= self.maxReplicas", _SCALE))
    )
    min_replicas: int = Field(default=2, ge=1, le=256)
    """Never fewer."""
    max_replicas: int = Field(default=8, ge=1, le=256)
    """Never more."""
    target_cpu_percent: int = Field(default=70, ge=10, le=100)
    """Mean CPU use, of what is requested, that is aimed at."""

    @model_validator(mode="after")
    def _bounds_hold(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(_SCALE)
        return self


class GatewayService(Part):
    """How clients reach the gateway."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""
    port: int = Field(default=80, ge=1, le=65535)
    """Port of the Service."""
    annotations: dict[str, str] = Field(default={}, max_length=32)
    """Annotations of the Service, for load balancers."""


class Ingress(Part):
    """An Ingress in front of the gateway."""

    host: str = Field(pattern=r"^(\*\.)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)
    """Host name that clients ask for."""
    class_name: ObjectName | None = None
    """IngressClass; absent: the cluster's default."""
    tls_secret_name: ObjectName | None = None
    """Secret of type kubernetes.io/tls for the host; absent: plain HTTP."""
    annotations: dict[str, str] = Field(default={}, max_length=32)
    """Annotations, for the ingress controller: time-outs above the longest stream, no buffering."""


class ParentRef(Part):
    """A Gateway of the Gateway API."""

    name: ObjectName
    """Its name."""
    namespace: ObjectName | None = None
    """Its namespace; absent: the service's own."""
    section_name: ObjectName | None = None
    """One of its listeners; absent: all that match."""


class HttpRoute(Part):
    """An HTTPRoute of the Gateway API to the gateway."""

    parent_refs: list[ParentRef] = Field(min_length=1, max_length=8)
    """Gateways that take the route."""
    hostnames: list[str] = Field(default=[], max_length=16)
    """Host names that clients ask for; absent: those of the listeners."""


class GatewaySpec(Placement):
    """The OpenAI-compatible front."""

    replicas: int = Field(default=1, ge=1, le=256)
    """Pods, where autoscaling is absent."""
    autoscaling: GatewayAutoscaling | None = None
    """Lets CPU use decide the number of pods."""
    resources: Resources = Resources(
        requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"}
    )
    """Of one pod."""
    service: GatewayService = GatewayService()
    """How clients reach it inside the cluster."""
    ingress: Ingress | None = None
    """Lets clients in through an ingress controller."""
    http_route: HttpRoute | None = None
    """Lets clients in through the Gateway API."""
    settings: dict[str, Json] = Field(default={})
    """Gateway settings, in camelCase; absent ones keep the gateway's defaults."""

    @model_validator(mode="after")
    def _settings_hold(self) -> Self:
        try:
            settings_from(self.settings, GatewaySettings, reserved=GATEWAY_RESERVED)
        except ValueError as error:
            raise ValueError(f"settings.{error}") from None
        return self


class EmbeddedStore(Part):
    """State on a volume of the controller's own."""

    size: Quantity = "1Gi"
    """Size of the volume."""
    storage_class_name: ObjectName | None = None
    """Storage class; absent: the cluster's default."""
    persistent: bool = True
    """False keeps the state only as long as the pod."""


class RedisStore(Part):
    """State in a Redis; services with one in common do not see each other's."""

    address: str = Field(pattern=r"^[\w.-]+:\d{1,5}$", max_length=256)
    """``host:port``."""
    tls: bool = False
    """Speak TLS to it; its certificate must be one that the server image trusts."""
    password_secret_name: ObjectName | None = None
    """Secret with the key ``password``."""


class Store(Part):
    """Where policies and wanted replicas survive a restart of the controller."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.type != 'Redis' || has(self.redis)", _NO_REDIS))
    )
    type: Literal["Embedded", "Redis"] = "Embedded"
    """Embedded: a file, for one controller.  Redis: for several, of which one leads."""
    embedded: EmbeddedStore = EmbeddedStore()
    """Used with type Embedded."""
    redis: RedisStore | None = None
    """Used with type Redis."""

    @model_validator(mode="after")
    def _redis_given(self) -> Self:
        if self.type == "Redis" and self.redis is None:
            raise ValueError(_NO_REDIS)
        return self


class ControllerSpec(Placement):
    """Registry, planning and broadcast.  Losing it costs speed, never output."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.store.type != 'Embedded' || self.replicas == 1", _EMBEDDED),
        )
    )
    replicas: int = Field(default=1, ge=1, le=5)
    """Pods; more than one need a Redis: one leads, the others stand by."""
    api_tokens: list[ApiToken] = Field(
        default=[], max_length=100, json_schema_extra=list_map("name")
    )
    """Who may use the control API, beside the operator."""
    store: Store = Store()
    """Where its state is kept."""
    resources: Resources = Resources(
        requests={"cpu": "250m", "memory": "256Mi"}, limits={"memory": "512Mi"}
    )
    """Of one pod."""
    settings: dict[str, Json] = Field(default={})
    """Controller settings, in camelCase; absent ones keep the controller's defaults."""

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if self.store.type == "Embedded" and self.replicas != 1:
            raise ValueError(f"replicas: {_EMBEDDED}")
        refuse_repeated("apiTokens", [OPERATORS_TOKEN, *(token.name for token in self.api_tokens)])
        try:
            settings_from(self.settings, ControllerSettings, reserved=CONTROLLER_RESERVED)
        except ValueError as error:
            raise ValueError(f"settings.{error}") from None
        return self
