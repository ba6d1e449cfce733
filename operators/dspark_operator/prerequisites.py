"""Prerequisites: what a cluster lacks for the operator, or for one service, in plain words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from dspark_operator.document import Object, items, part, text
from dspark_operator.spec.model import ModelSource
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pods import Toleration
from dspark_operator.spec.pools import Group

_MEANT_FOR_MINOR = 28
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

RAY_SERVICE = "ray.io/v1/RayService"
OWN = "serving.dspark.dev/v1alpha1/DSparkService"

Level = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: ``missing`` is needed, ``warning`` is a loss that can be lived with."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen of a cluster; None where the rights to look are missing.

    Attributes:
        minor: Minor version of the API server, as 32 of 1.32.
        served: ``group/version/Kind`` of kinds that matter here and are served.
        nodes: Nodes.
        storage_classes: Storage classes.
        claims: PersistentVolumeClaims of the service's namespace by name.
        authorities: ConfigMaps of that namespace with the key ``ca.crt``.
    """

    minor: int
    served: frozenset[str]
    nodes: list[Object] | None
    storage_classes: list[Object] | None
    claims: Mapping[str, Object] | None
    authorities: frozenset[str] | None = None


def findings(facts: Facts, service: Service | None = None) -> list[Finding]:
    """Return what is there and what is not; with a service also what it asks for."""
    found = [_version(facts), *_kinds(facts, service), *_storage(facts, service)]
    if service is None:
        found.append(_gpus(facts))
    else:
        found += _claims(facts, service)
        found += _authority(facts, service)
        found += [_room(facts, pool.unit(group), group) for pool, group in service.spec.units()]
    return found


def _version(facts: Facts) -> Finding:
    if facts.minor < _MEANT_FOR_MINOR:
        return Finding(
            level="warning",
            message=f"Kubernetes 1.{facts.minor}: meant for 1.{_MEANT_FOR_MINOR} and newer; older "
            "ones do not check the CRDs' cross-field rules (the operator does)",
        )
    return Finding(level="ok", message=f"Kubernetes 1.{facts.minor}")


def _kinds(facts: Facts, service: Service | None) -> Iterator[Finding]:
    yield _kind(facts, RAY_SERVICE, "missing", "KubeRay: install its operator and CRDs")
    yield _kind(facts, OWN, "missing", "this product's CRDs: kubectl apply --server-side -f crds/")
    pdb = "policy/v1/PodDisruptionBudget"
    yield _kind(facts, pdb, "warning", "disruption budgets: a node drain may take a whole pool")
    if service is None:
        return
    if service.spec.gateway.autoscaling is not None:
        hpa = "autoscaling/v2/HorizontalPodAutoscaler"
        yield _kind(facts, hpa, "missing", "the gateway's autoscaler, which the spec asks for")
    if service.spec.observability.monitors:
        monitor = "monitoring.coreos.com/v1/PodMonitor"
        yield _kind(facts, monitor, "missing", "the Prometheus operator, which the spec asks for")
    tls = service.spec.tls
    if tls is not None and tls.issuer_ref is not None:
        certificate = "cert-manager.io/v1/Certificate"
        yield _kind(facts, certificate, "missing", "cert-manager, which the spec asks for")
    if service.spec.gateway.http_route is not None:
        route = "gateway.networking.k8s.io/v1/HTTPRoute"
        yield _kind(facts, route, "missing", "the Gateway API, which the spec asks for")


def _kind(facts: Facts, kind: str, level: Level, what: str) -> Finding:
    if kind in facts.served:
        return Finding(level="ok", message=f"{kind} is served")
    return Finding(level=level, message=f"{kind} is not served: {what}")


def _storage(facts: Facts, service: Service | None) -> Iterator[Finding]:
    wanted = None
    if service is not None:
        store = service.spec.controller.store
        if store.type == "Redis" or not store.embedded.persistent:
            return
        wanted = store.embedded.storage_class_name
    if facts.storage_classes is None:
        yield Finding(level="warning", message="storage classes: no right to look")
        return
    known = [text(entry, "metadata", "name") for entry in facts.storage_classes]
    if wanted is not None:
        level: Level = "ok" if wanted in known else "missing"
        told = "exists" if wanted in known else f"does not exist; there are: {', '.join(known)}"
        yield Finding(level=level, message=f"storage class {wanted} {told}")
        return
    default = [
        text(entry, "metadata", "name")
        for entry in facts.storage_classes
        if text(entry, "metadata", "annotations", _DEFAULT_CLASS) == "true"
    ]
    if default:
        yield Finding(level="ok", message=f"default storage class {default[0]}")
    else:
        yield Finding(
            level="missing",
            message="no default storage class for the controller's volume: name one in "
            "controller.store.embedded.storageClassName, or set persistent to false there",
        )


def _claims(facts: Facts, service: Service) -> Iterator[Finding]:
    model = service.spec.model
    sources: dict[str, ModelSource | None] = {"target": model.target, "drafter": model.drafter}
    for kind, source in sources.items():
        if source is None or source.pvc is None:
            continue
        name = source.pvc.claim_name
        if facts.claims is None:
            yield Finding(level="warning", message=f"volume {name}: no right to look")
            continue
        claim = facts.claims.get(name)
        if claim is None:
            yield Finding(
                level="missing",
                message=f"the {kind}'s PersistentVolumeClaim {name} is not in namespace "
                f"{service.namespace}",
            )
            continue
        modes = part(claim, "spec").get("accessModes")
        shared = isinstance(modes, list) and any("Many" in str(mode) for mode in modes)
        level: Level = "ok" if shared else "warning"
        told = "" if shared else ": only one node at a time can mount it, so all pods share it"
        yield Finding(level=level, message=f"the {kind}'s PersistentVolumeClaim {name}{told}")


def _authority(facts: Facts, service: Service) -> Iterator[Finding]:
    tls = service.spec.tls
    if tls is None:
        return
    name = tls.authority_config_map_name
    if facts.authorities is None:
        yield Finding(level="warning", message=f"ConfigMap {name}: no right to look")
    elif name in facts.authorities:
        yield Finding(level="ok", message=f"ConfigMap {name} has the service's authority")
    else:
        yield Finding(
            level="missing",
            message=f"ConfigMap {name} with the key ca.crt is not in namespace "
            f"{service.namespace}: kubectl create configmap {name} --from-file=ca.crt",
        )


def _gpus(facts: Facts) -> Finding:
    if facts.nodes is None:
        return Finding(level="warning", message="nodes: no right to look")
    found: dict[str, int] = {}
    for node in facts.nodes:
        for name, count in part(node, "status", "allocatable").items():
            if name.endswith("/gpu"):
                found[name] = found.get(name, 0) + int(str(count))
    if not found:
        return Finding(
            level="warning",
            message="no node offers a GPU: CPU services only, or install the device plug-in",
        )
    told = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    return Finding(level="ok", message=f"nodes offer {told}")


def _room(facts: Facts, unit: str, group: Group) -> Finding:
    """Say whether the group's least number of pods finds nodes, were they empty."""
    if facts.nodes is None:
        return Finding(level="warning", message=f"group {unit}: no right to look at nodes")
    wanted = {
        name: int(count) for name, count in group.resources.limits.items() if name.endswith("/gpu")
    }
    fitting = [node for node in facts.nodes if _takes(node, group)]
    pods = group.pods(max(group.replicas.min, 1))
    if wanted:
        room = sum(
            min(int(str(part(node, "status", "allocatable").get(name, 0))) // count
                for name, count in wanted.items())
            for node in fitting
        )  # fmt: skip
    else:
        room = pods if fitting else 0
    if room >= pods:
        return Finding(level="ok", message=f"group {unit}: {len(fitting)} nodes can take its pods")
    asked = ", ".join(f"{count} {name}" for name, count in wanted.items()) or "its node selector"
    level: Level = "missing" if group.replicas.min else "warning"
    return Finding(
        level=level,
        message=f"group {unit}: {pods} pods with {asked} each are wanted, and the nodes that its "
        f"selector and tolerations allow have room for {room} (an autoscaler may add some)",
    )


def _takes(node: Object, group: Group) -> bool:
    labels = part(node, "metadata", "labels")
    if any(labels.get(key) != value for key, value in group.node_selector.items()):
        return False
    if part(node, "spec").get("unschedulable") is True:
        return False
    return all(
        text(taint, "effect") == "PreferNoSchedule"
        or any(_tolerates(toleration, taint) for toleration in group.tolerations)
        for taint in items(node, "spec", "taints")
    )


def _tolerates(toleration: Toleration, taint: Object) -> bool:
    if toleration.effect is not None and toleration.effect != text(taint, "effect"):
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != text(taint, "key"):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == text(taint, "value")
