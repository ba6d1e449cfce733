"""The whole spec of a DSparkService."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dspark.config.telemetry import TelemetrySettings
from dspark.config.tls import HttpPort
from dspark_operator.spec.base import (
    Image,
    MaxText,
    ObjectName,
    Part,
    Quantity,
    list_map,
    refuse_repeated,
    rules,
)
from dspark_operator.spec.front import ControllerSpec, GatewaySpec
from dspark_operator.spec.model import ModelSpec
from dspark_operator.spec.pods import Placement, Resources
from dspark_operator.spec.pools import Group, Pool
from dspark_operator.spec.tls import TlsSpec
from dspark_operator.spec.vllm import VLLM_RULES, refuse_beside_vllm

_NO_DRAFTER = "a drafter pool needs model.drafter"
_NO_VERIFIER = "at least one pool with role verifier is needed"
_SHARES = "replicas must lie between the sums of all verifier groups' replicas.min and replicas.max"
_NO_SLO = "timeToFirstTokenSeconds or interTokenSeconds is needed"
_NOT_SCRAPED = "slo: observability.monitors is needed: what is not scraped cannot be compared"
LONGEST_TTFT_S, LONGEST_TOKEN_S = 10.0, 1.0
"""Largest finite buckets of the histograms: beyond them nothing can be told apart."""
_NO_SURGE = "type NewClusterWithIncrementalUpgrade needs surge"


def _sum_of(bound: str) -> str:
    """CEL: the sum of a bound over all groups of verifiers."""
    groups = f"p.groups.map(g, g.replicas.{bound}).sum()"
    return f"self.pools.filter(p, p.role == 'verifier').map(p, {groups}).sum()"


class Images(Part):
    """Images of the two families; absent: the ones that the operator was installed with."""

    engine: Image | None = None
    """Ray with the engines: prefill, drafter, verifier, and Ray's head."""
    server: Image | None = None
    """Gateway and controller."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When images are pulled."""
    pull_secret_names: list[ObjectName] = Field(default=[], max_length=8)
    """Secrets with registry credentials."""


class SpeculationSpec(Part):
    """Defaults of drafting and of the verification budget; a group's engine settings win."""

    min_accepted_length: float = Field(default=1.2, ge=1.0)
    """Self-check at load: the pair must reach this mean accepted length."""
    cohorts: Literal["auto", 1, 2] | None = None
    """Groups of sessions that alternate between drafting and verifying; auto: as it pays."""
    draft_deadline_floor_seconds: float | None = Field(default=None, gt=0)
    """A draft is waited for at least this long."""
    draft_deadline_factor: float | None = Field(default=None, ge=1)
    """... or this many times the smoothed round trip."""
    min_samples: int | None = Field(default=None, ge=1)
    """Committed rounds needed before a budget trims anything."""
    activation_sessions: int | None = Field(default=None, ge=1)
    """Below this many sessions in a step everything drafted is verified."""
    budget_ttl_seconds: float | None = Field(default=None, gt=0)
    """A budget not renewed for this long is no longer used."""


class ObservabilitySpec(Part):
    """Metrics, traces and logs; the monitors need the Prometheus operator's CRDs."""

    monitors: bool = False
    """Make ServiceMonitors for gateway and controller and a PodMonitor for engines and Ray."""
    interval: str = Field(default="15s", pattern=r"^[1-9]\d{0,3}(s|m)$")
    """How often they are scraped."""
    labels: dict[str, str] = Field(default={}, max_length=32)
    """Labels of the monitors, by which a Prometheus selects them."""
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+$", max_length=256)
    """OpenTelemetry collector (OTLP over gRPC, ``http://host:4317``) that gets traces."""
    trace_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the requests that is traced, of those whose caller did not decide it."""
    log_format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line with request and session ids."""

    def telemetry(self) -> TelemetrySettings:
        """Return what processes are told about traces and logs."""
        return TelemetrySettings(
            otlp_endpoint=self.otlp_endpoint,
            trace_share=self.trace_share,
            log_format=self.log_format,
        )


class SloSpec(Part):
    """What clients are promised; a PrometheusRule alerts when it is not kept for ten minutes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.timeToFirstTokenSeconds) || has(self.interTokenSeconds)", _NO_SLO)
        )
    )
    time_to_first_token_seconds: float | None = Field(default=None, gt=0, lt=LONGEST_TTFT_S)
    """From a request's arrival at the gateway to its first token."""
    inter_token_seconds: float | None = Field(default=None, gt=0, lt=LONGEST_TOKEN_S)
    """Between two tokens of a stream."""
    percentile: int = Field(default=95, ge=50, le=99)
    """Share of them that keeps to it, in percent."""

    @model_validator(mode="after")
    def _something_is_promised(self) -> Self:
        if self.time_to_first_token_seconds is None and self.inter_token_seconds is None:
            raise ValueError(_NO_SLO)
        return self


class NetworkSpec(Part):
    """Who may talk to whom."""

    policies: bool = True
    """Make NetworkPolicies: only this service's processes reach each other."""
    gateway_from: list[dict[str, str]] = Field(default=[], max_length=16)
    """Namespace labels that may call the gateway; absent: everyone."""
    control_from: list[dict[str, str]] = Field(default=[], max_length=16)
    """Namespace labels that may call the control API; absent: the operator only."""
    ray_operator_namespace: ObjectName = "kuberay-operator"
    """Namespace of the KubeRay operator, which asks Ray's head for its state."""
    port_min: int = Field(default=9910, ge=1024, le=65000)
    """First port of the replicas' own gRPC servers."""
    port_max: int = Field(default=9959, ge=1024, le=65535)
    """Last port of the replicas' own gRPC servers."""
    metrics_port_min: int = Field(default=9960, ge=1024, le=65000)
    """First port of the replicas' metrics."""
    metrics_port_max: int = Field(default=9999, ge=1024, le=65535)
    """Last port of the replicas' metrics."""


class Surge(Part):
    """How much a new cluster may cost beside the old one."""

    max_percent: int = Field(default=25, ge=1, le=100)
    """Largest share of GPUs in addition while both clusters exist."""
    step_percent: int = Field(default=25, ge=1, le=100)
    """Share of the traffic moved at once."""
    interval_seconds: int = Field(default=60, ge=1, le=3600)
    """Pause between two steps."""
    gateway_class_name: ObjectName
    """GatewayClass that KubeRay needs for an incremental upgrade."""


class UpdateStrategy(Part):
    """What may happen when an edit cannot be applied to the running Ray cluster in place."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.type == 'None' || has(self.surge)", _NO_SURGE))
    )
    type: Literal["None", "NewClusterWithIncrementalUpgrade"] = "None"
    """None: nothing; the edit is held back and the status says so.  Otherwise a second cluster
    takes over step by step, within the surge."""
    surge: Surge | None = None
    """Bounds of an incremental upgrade."""

    @model_validator(mode="after")
    def _surge_given(self) -> Self:
        if self.type != "None" and self.surge is None:
            raise ValueError(_NO_SURGE)
        return self


class HeadSpec(Placement):
    """Ray's head: it runs no engine."""

    resources: Resources = Resources(
        requests={"cpu": "1", "memory": "4Gi"}, limits={"cpu": "2", "memory": "4Gi"}
    )
    """Of the pod."""


class RayFaultTolerance(Part):
    """A Redis that lets Ray's head restart without losing its workers."""

    redis_address: str = Field(pattern=r"^(rediss?://)?[\w.-]+:\d{1,5}$", max_length=256)
    """``host:port``."""
    password_secret_name: ObjectName | None = None
    """Secret with the key ``password``."""


class RaySpec(Part):
    """Ray, which places the engines."""

    version: str = Field(default="2.60.0", pattern=r"^\d+\.\d+\.\d+$")
    """Version of Ray in the engine image."""
    head: HeadSpec = HeadSpec()
    """The head pod."""
    fault_tolerance: RayFaultTolerance | None = None
    """Absent: a lost head takes the pools with it until KubeRay has made a new cluster."""
    shared_memory: Quantity = "2Gi"
    """Size of /dev/shm in every Ray pod."""


class ServiceSpec(Part):
    """One served pair: pools, front and control."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.model.drafter) || !self.pools.exists(p, p.role == 'drafter')",
                _NO_DRAFTER,
            ),
            ("self.pools.exists(p, p.role == 'verifier')", _NO_VERIFIER),
            (
                "!has(oldSelf.pools) || self.pools.all(p, oldSelf.pools.all(o, "
                "o.name != p.name || o.role == p.role))",
                "the role of a pool cannot be changed: add a pool and remove this one",
            ),
            ("!has(self.slo) || self.observability.monitors", _NOT_SCRAPED),
            (
                f"!has(self.replicas) || ({_sum_of('min')} <= self.replicas && "
                f"self.replicas <= {_sum_of('max')})",
                _SHARES,
            ),
            *VLLM_RULES,
        )
    )
    model: ModelSpec
    """Which pair is served."""
    images: Images = Images()
    """What runs."""
    pools: list[Pool] = Field(min_length=1, max_length=8, json_schema_extra=list_map("name"))
    """Prefill, drafter and verifier pools; at least one verifier."""
    replicas: int | None = Field(default=None, ge=1, le=8192)
    """Verifiers of the service, over all their groups in the order written; what ``kubectl scale``
    and autoscalers set.  Absent: each group follows its load, or has what was asked of it."""
    gateway: GatewaySpec = GatewaySpec()
    """The OpenAI-compatible front."""
    controller: ControllerSpec = ControllerSpec()
    """Registry and budgets."""
    speculation: SpeculationSpec = SpeculationSpec()
    """Defaults of drafting."""
    ray: RaySpec = RaySpec()
    """Placement of the engines."""
    observability: ObservabilitySpec = ObservabilitySpec()
    """Metrics, traces and logs."""
    slo: SloSpec | None = None
    """What clients are promised."""
    network: NetworkSpec = NetworkSpec()
    """Ports and NetworkPolicies."""
    tls: TlsSpec | None = None
    """Mutual TLS between the processes; absent: plaintext, for trusted networks only."""
    update_strategy: UpdateStrategy = UpdateStrategy()
    """What may happen when an edit needs a new Ray cluster."""
    description: MaxText = ""
    """For people."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        refuse_repeated("pools", (pool.name for pool in self.pools))
        refuse_repeated("pools", (pool.unit(group) for pool, group in self.units()))
        if not any(pool.role == "verifier" for pool in self.pools):
            raise ValueError(f"pools: {_NO_VERIFIER}")
        if self.model.drafter is None:
            for pool in self.pools:
                if pool.role == "drafter":
                    raise ValueError(f"pools[{pool.name}]: {_NO_DRAFTER}")
        if self.slo is not None and not self.observability.monitors:
            raise ValueError(_NOT_SCRAPED)
        refuse_beside_vllm(
            self.pools,
            drafter=self.model.drafter is not None,
            mode=self.gateway.settings.get("speculationMode"),
            cohorts=self.speculation.cohorts,
        )
        self._shares_exist()
        self._ports_suffice()
        return self

    def _shares_exist(self) -> None:
        groups = [group for pool, group in self.units() if pool.role == "verifier"]
        least = sum(group.replicas.min for group in groups)
        most = sum(group.replicas.max for group in groups)
        if self.replicas is not None and not least <= self.replicas <= most:
            raise ValueError(f"{_SHARES}: {least} to {most}, not {self.replicas}")

    def verifier_shares(self) -> dict[str, int]:
        """Return how many of ``replicas`` each group of verifiers gets; empty where it is absent.

        Every group has its least number; what is left fills the groups in the order written.
        """
        if self.replicas is None:
            return {}
        units = [(pool.unit(g), g.replicas) for pool, g in self.units() if pool.role == "verifier"]
        left = self.replicas - sum(replicas.min for _, replicas in units)
        shares = {}
        for unit, replicas in units:
            more = min(left, replicas.max - replicas.min)
            shares[unit] = replicas.min + more
            left -= more
        return shares

    def most_replicas_per_pod(self) -> int:
        """Return the most engines that share a pod, and so its ports."""
        return max(group.replicas_per_pod for _, group in self.units())

    def _ports_suffice(self) -> None:
        network, needed = self.network, self.most_replicas_per_pod()
        ranges = {
            "port": (network.port_min, network.port_max),
            "metricsPort": (network.metrics_port_min, network.metrics_port_max),
        }
        for name, (least, most) in ranges.items():
            if most - least + 1 < needed:
                raise ValueError(
                    f"network: {name}Min..{name}Max is {least}..{most}, and {needed} replicas "
                    "share a pod: each needs a port"
                )
        if network.port_min <= network.metrics_port_max and (
            network.metrics_port_min <= network.port_max
        ):
            raise ValueError("network: the ranges of ports and of metrics ports overlap")

    def has_https(self, port: HttpPort) -> bool:
        """Say whether an HTTP port speaks TLS."""
        return self.tls is not None and port not in self.tls.plain_http

    def units(self) -> list[tuple[Pool, Group]]:
        """Every group with its pool, in the order written."""
        return [(pool, group) for pool in self.pools for group in pool.groups]

    def has_vllm(self) -> bool:
        """Say whether vLLM runs the verifiers."""
        return any(pool.runtime == "vllm" for pool in self.pools)

    def verifier_units(self) -> list[str]:
        """What the controller calls each group of verifiers."""
        return [pool.unit(group) for pool, group in self.units() if pool.role == "verifier"]

    def gpus(self) -> int:
        """Most GPUs that this spec may use at once, outside of an upgrade."""
        return sum(
            group.pods(group.replicas.max) * group.resources.gpus() for _, group in self.units()
        )
