"""ServiceAccounts, NetworkPolicies and disruption budgets: who may be what, reach whom, and stop.

No Role is made here: gateway, controller and engines never call the Kubernetes API, and KubeRay
itself binds the head's account to what Ray's autoscaler needs.
"""

from urllib.parse import urlsplit

from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.manifests.objects import Cluster, Release, make
from dspark_operator.spec.parse import Service

_COMPONENTS = (names.GATEWAY, names.CONTROLLER, names.HEAD, names.ENGINE)
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_PORT_RANGES_SINCE = 22
_RAY_METRICS_PORT = 8080
_OTLP_PORT = 4317
_UNHEALTHY_POLICY_SINCE = 27


def accounts(service: Service) -> list[Object]:
    """Return one ServiceAccount for each component; none mounts a token by itself."""
    return [
        make(service, "v1", "ServiceAccount", component,
             body={"automountServiceAccountToken": False})
        for component in (*_COMPONENTS, *_checking(service))
    ]  # fmt: skip


def disruption_budgets(service: Service, cluster: Cluster) -> list[Object]:
    """Return budgets that let a node drain take one pod of a kind at a time."""
    made = [_budget(service, cluster, names.GATEWAY, names.selector(service, names.GATEWAY))]
    if service.spec.controller.replicas > 1:
        controllers = names.selector(service, names.CONTROLLER)
        made.append(_budget(service, cluster, names.CONTROLLER, controllers))
    for pool in service.spec.pools:
        chosen: Object = {
            **names.selector(service, names.ENGINE),
            names.POOL_LABEL: pool.name,
        }
        made.append(_budget(service, cluster, f"pool-{pool.name}", chosen))
    return made


def network_policies(service: Service, release: Release, cluster: Cluster) -> list[Object]:
    """Return policies under which only this service's processes reach each other."""
    network = service.spec.network
    if not network.policies:
        return []
    engines: Object = {"podSelector": {"matchLabels": names.selector(service, names.ENGINE)}}
    head: Object = {"podSelector": {"matchLabels": names.selector(service, names.HEAD)}}
    gateway: Object = {"podSelector": {"matchLabels": names.selector(service, names.GATEWAY)}}
    controller: Object = {"podSelector": {"matchLabels": names.selector(service, names.CONTROLLER)}}
    kuberay: Object = {
        "namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: network.ray_operator_namespace}}
    }
    replicas: Object = {"protocol": "TCP"}
    if cluster.minor >= _PORT_RANGES_SINCE:
        replicas |= {"port": network.port_min, "endPort": network.port_max}
    engines_in_a_pod = service.spec.most_replicas_per_pod()
    scraped: list[Json] = [_tcp(_RAY_METRICS_PORT)]
    scraped += [_tcp(network.metrics_port_min + number) for number in range(engines_in_a_pod)]
    callers: list[Json] = [
        {"namespaceSelector": {"matchLabels": {**wanted}}} for wanted in network.gateway_from
    ]
    if release.namespace:
        asking: Object = {"matchLabels": {_NAMESPACE_NAME: release.namespace}}
        callers += [{"namespaceSelector": asking}] if callers else []
    anyone: Object = {"ports": [_tcp(names.GATEWAY_PORT)]}
    anyone |= {"from": [*callers, {"podSelector": {}}]} if callers else {}
    dns: Object = {"ports": [{"protocol": "UDP", "port": 53}, _tcp(53)]}
    control: Object = {"to": [controller], "ports": [_tcp(names.CONTROLLER_PORT)]}
    control_from: list[Json] = [_operator(release)]
    control_from += [
        {"namespaceSelector": {"matchLabels": {**wanted}}} for wanted in network.control_from
    ]
    # Weights and tokenizers come over HTTPS, unless they lie on a volume.
    fetch: list[Json] = [{"ports": [_tcp(443)]}]
    collector = _to_collector(service)
    return [
        _policy(
            service, names.GATEWAY, ingress=[anyone],
            egress=[dns, control, {"to": [engines], "ports": [replicas]}, *fetch, *collector],
        ),
        _policy(
            service, names.CONTROLLER,
            ingress=[
                {"from": [gateway, engines, head], "ports": [_tcp(names.CONTROLLER_PORT)]},
                {"ports": [_tcp(names.CONTROLLER_METRICS_PORT)]},
                {"from": control_from, "ports": [_tcp(names.CONTROL_API_PORT)]},
            ],
            egress=[
                dns, *_to_store(service), *collector,
                # Prompts that people try out on the dashboard.
                {"to": [gateway], "ports": [_tcp(names.GATEWAY_PORT)]},
            ],
        ),
        _policy(
            service, names.ENGINE,
            ingress=[
                {"from": [engines, head]},
                {"from": [gateway], "ports": [replicas]},
                {"ports": scraped},
            ],
        ),
        _policy(
            service, names.HEAD,
            ingress=[
                {"from": [engines, head]},
                {"from": [kuberay], "ports": [_tcp(8265)]},
                {"ports": [_tcp(_RAY_METRICS_PORT)]},
            ],
        ),
        *(_policy(service, component, ingress=[]) for component in _checking(service)),
    ]  # fmt: skip


def _operator(release: Release) -> Object:
    """Return the operator's pods as a peer."""
    pods: Object = {"podSelector": {"matchLabels": {names.COMPONENT_LABEL: names.OPERATOR}}}
    if release.namespace:
        pods["namespaceSelector"] = {"matchLabels": {_NAMESPACE_NAME: release.namespace}}
    return pods


def _to_store(service: Service) -> list[Json]:
    redis = service.spec.controller.store.redis
    if service.spec.controller.store.type == "Embedded" or redis is None:
        return []
    return [{"ports": [_tcp(int(redis.address.rpartition(":")[2]))]}]


def _to_collector(service: Service) -> list[Json]:
    endpoint = service.spec.observability.otlp_endpoint
    if endpoint is None:
        return []
    return [{"ports": [_tcp(urlsplit(endpoint).port or _OTLP_PORT)]}]


def _checking(service: Service) -> tuple[str, ...]:
    return () if service.spec.model.drafter is None else (names.PAIR_CHECK,)


def _budget(service: Service, cluster: Cluster, component: str, chosen: Object) -> Object:
    spec: Object = {"maxUnavailable": 1, "selector": {"matchLabels": chosen}}
    if cluster.minor >= _UNHEALTHY_POLICY_SINCE:
        spec["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
    return make(service, "policy/v1", "PodDisruptionBudget", component, body={"spec": spec})


def _policy(
    service: Service, component: str, *, ingress: list[Json], egress: list[Json] | None = None
) -> Object:
    spec: Object = {
        "podSelector": {"matchLabels": names.selector(service, component)},
        "policyTypes": ["Ingress"] if egress is None else ["Ingress", "Egress"],
        "ingress": ingress,
    }
    if egress is not None:
        spec["egress"] = egress
    return make(service, "networking.k8s.io/v1", "NetworkPolicy", component, body={"spec": spec})


def _tcp(port: int) -> Object:
    return {"protocol": "TCP", "port": port}
