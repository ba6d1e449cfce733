"""Monitors of the Prometheus operator."""

from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.manifests.objects import make
from dspark_operator.spec.parse import Service

_API = "monitoring.coreos.com/v1"


def monitors(service: Service) -> list[Object]:
    """Return what tells a Prometheus where our metrics are; empty where it is not asked for.

    Engines choose their metrics port themselves and so are not among the targets: what they
    measure is scraped where the controller and the gateway report it.
    """
    wanted = service.spec.observability
    if not wanted.monitors:
        return []
    endpoints = {names.GATEWAY: "http", names.CONTROLLER: "metrics"}
    made = [
        _monitor(
            service,
            "ServiceMonitor",
            component,
            {
                "selector": {"matchLabels": names.selector(service, component)},
                "endpoints": [{"port": port, "interval": wanted.interval}],
            },
        )
        for component, port in endpoints.items()
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
                "podMetricsEndpoints": [{"port": "metrics", "interval": wanted.interval}],
            },
        )
    )
    return made


def _monitor(service: Service, kind: str, component: str, spec: Object) -> Object:
    chosen_by: Object = {**service.spec.observability.labels}
    return make(service, _API, kind, component, body={"spec": spec}, labels=chosen_by)
