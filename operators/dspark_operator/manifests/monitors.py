"""Monitors of the Prometheus operator."""

from dspark.config.tls import HttpPort
from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.manifests.objects import make
from dspark_operator.spec.parse import Service
from dspark_operator.spec.service import SloSpec

_API = "monitoring.coreos.com/v1"


def monitors(service: Service) -> list[Object]:
    """Return what tells a Prometheus where our metrics are; empty where it is not asked for.

    Engines that share a pod take the ports of a range in turn.  Prometheus passes over the ports
    that a pod does not declare.
    """
    wanted = service.spec.observability
    if not wanted.monitors:
        return []
    endpoints: dict[str, tuple[str, HttpPort]] = {
        names.GATEWAY: ("http", "gateway"),
        names.CONTROLLER: ("metrics", "metrics"),
    }
    made = [
        _monitor(
            service,
            "ServiceMonitor",
            component,
            {
                "selector": {"matchLabels": names.selector(service, component)},
                "endpoints": [{"port": port, "interval": wanted.interval, **_tls(service, kind)}],
            },
        )
        for component, (port, kind) in endpoints.items()
    ]
    components: list[Json] = [names.HEAD, names.ENGINE]
    pods: Object = {
        "matchLabels": names.selector(service),
        "matchExpressions": [
            {"key": names.COMPONENT_LABEL, "operator": "In", "values": components}
        ],
    }
    made.append(
        _monitor(
            service,
            "PodMonitor",
            "ray",
            {
                "selector": pods,
                "podMetricsEndpoints": [
                    # Ray's own port has none of our certificates.
                    {"port": "metrics", "interval": wanted.interval},
                    *(
                        {"port": port, "interval": wanted.interval, **_tls(service, "metrics")}
                        for port in _engine_ports(service)
                    ),
                ],
            },
        )
    )
    if service.spec.slo is not None:
        made.append(_promises(service, service.spec.slo))
    return made


def _engine_ports(service: Service) -> list[str]:
    engines = service.spec.most_replicas_per_pod()
    return [f"{names.METRICS_PORT}-{number}" for number in range(engines)]


def _tls(service: Service, port: HttpPort) -> Object:
    """Return how a Prometheus talks to one of our HTTP ports."""
    tls = service.spec.tls
    if tls is None or not service.spec.has_https(port):
        return {}
    authority: Object = {"name": tls.authority_config_map_name, "key": "ca.crt"}
    return {
        "scheme": "https",
        "tlsConfig": {"ca": {"configMap": authority}, "serverName": names.TLS_NAME},
    }


def _promises(service: Service, slo: SloSpec) -> Object:
    """Return alerts for what clients are promised, as the gateway sees it."""
    promised = (
        ("FirstToken", "vllm:time_to_first_token_seconds", slo.time_to_first_token_seconds),
        ("InterToken", "vllm:inter_token_latency_seconds", slo.inter_token_seconds),
    )
    where = f'namespace="{service.namespace}",service="{names.child(service, names.GATEWAY)}"'
    alerts: list[Json] = []
    for what, metric, seconds in promised:
        if seconds is None:
            continue
        rate = f"sum by (le) (rate({metric}_bucket{{{where}}}[5m]))"
        alerts.append(
            {
                "alert": f"DSparkSlo{what}",
                "expr": f"histogram_quantile({slo.percentile / 100}, {rate}) > {seconds}",
                "for": "10m",
                "labels": {"severity": "warning", "dspark_service": service.name},
                "annotations": {
                    "summary": f"{service.namespace}/{service.name}: {metric} is above "
                    f"{seconds} s at the {slo.percentile}th percentile",
                    "description": "Compare the pools' busy share, and what the budget is bound by "
                    "(dspark top, dspark budget show).",
                },
            }
        )
    groups: list[Json] = [{"name": f"{service.name}-slo", "rules": alerts}]
    return _monitor(service, "PrometheusRule", "slo", {"groups": groups})


def _monitor(service: Service, kind: str, component: str, spec: Object) -> Object:
    chosen_by: Object = {**service.spec.observability.labels}
    return make(service, _API, kind, component, body={"spec": spec}, labels=chosen_by)
