"""Prerequisites: what is missing is told in words, by how much it matters."""

from typing import Any

from dspark_operator.prerequisites import OWN, RAY_SERVICE, Facts, findings
from tests.operator.cases import service, small

SERVED = frozenset({OWN, RAY_SERVICE, "policy/v1/PodDisruptionBudget"})
DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}
CLAIM = {"spec": {"accessModes": ["ReadOnlyMany"]}}


def _node(gpus: int, **spec: Any) -> dict[str, Any]:
    allocatable = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    labels = {"sku": "h200"}
    return {"metadata": {"labels": labels}, "spec": spec, "status": {"allocatable": allocatable}}


def _facts(**changes: Any) -> Facts:
    whole: dict[str, Any] = {
        "minor": 32,
        "served": SERVED,
        "nodes": [_node(8)],
        "storage_classes": [{"metadata": {"name": "fast", "annotations": DEFAULT}}],
        "claims": {"weights": CLAIM},
        **changes,
    }
    return Facts(**whole)


def _said(facts: Facts, level: str, spec: dict[str, Any] | None = None) -> list[str]:
    found = findings(facts, None if spec is None else service(spec))
    return [finding.message for finding in found if finding.level == level]


def test_nothing_is_missing_where_everything_is_there() -> None:
    for spec in (None, small()):
        assert _said(_facts(), "missing", spec) == []
        assert _said(_facts(), "warning", spec) == []


def test_an_empty_cluster_lacks_what_is_needed() -> None:
    bare = _facts(minor=20, served=frozenset(), nodes=[], storage_classes=[], claims={})
    missing = _said(bare, "missing", small())
    assert (
        missing[0] == "ray.io/v1/RayService is not served: KubeRay: install its operator and CRDs"
    )
    assert any("no default storage class" in told for told in missing)
    assert any("PersistentVolumeClaim weights is not in namespace serving" in t for t in missing)
    assert any(told.startswith("group verifier-big: 1 pods") for told in missing)
    # A drafter group may be empty.
    assert any(told.startswith("group drafter-small") for told in _said(bare, "warning", small()))
    assert _said(bare, "warning")[0].startswith("Kubernetes 1.20: meant for 1.28")


def test_what_tls_needs_is_said() -> None:
    given = small(tls={"authorityConfigMapName": "authority", "secretName": "s"})
    issued = small(tls={"authorityConfigMapName": "authority", "issuerRef": {"name": "i"}})
    here = _facts(authorities=frozenset({"authority"}))
    assert _said(here, "missing", given) == []
    assert _said(here, "missing", issued) == [
        "cert-manager.io/v1/Certificate is not served: cert-manager, which the spec asks for"
    ]
    (told,) = _said(_facts(authorities=frozenset()), "missing", given)
    assert told.startswith("ConfigMap authority with the key ca.crt is not in namespace serving")
    assert _said(_facts(), "warning", given) == ["ConfigMap authority: no right to look"]


def test_a_controller_with_a_redis_or_without_a_volume_needs_no_storage_class() -> None:
    bare = _facts(storage_classes=[])
    redis = {"type": "Redis", "redis": {"address": "redis:6379"}}
    for store in (redis, {"embedded": {"persistent": False}}):
        assert _said(bare, "missing", small(controller={"store": store})) == []
    assert _said(bare, "missing", small()), "a volume does"


def test_what_may_not_be_looked_at_is_a_warning() -> None:
    blind = _facts(nodes=None, storage_classes=None, claims=None)
    assert _said(blind, "missing", small()) == []
    assert all("no right to look" in told for told in _said(blind, "warning", small()))


def test_optional_kinds_are_needed_once_they_are_asked_for() -> None:
    route = {"httpRoute": {"parentRefs": [{"name": "edge"}]}, "autoscaling": {}}
    spec = small(gateway=route, observability={"monitors": True})
    missing = _said(_facts(), "missing", spec)
    assert [told.split(" ")[0].rsplit("/", 1)[-1] for told in missing] == [
        "HorizontalPodAutoscaler", "PodMonitor", "HTTPRoute",
    ]  # fmt: skip


def test_a_group_finds_no_room_behind_a_taint_or_another_label() -> None:
    spec = small()
    group = spec["pools"][0]["groups"][0]
    group |= {"nodeSelector": {"sku": "h200"}}
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    tainted = _facts(nodes=[_node(8, taints=[taint])])
    assert any("verifier-big" in told for told in _said(tainted, "missing", spec))
    group |= {"tolerations": [{"key": "gpu", "operator": "Exists"}]}
    assert _said(tainted, "missing", spec) == []
    group |= {"nodeSelector": {"sku": "l4"}}
    assert any("verifier-big" in told for told in _said(tainted, "missing", spec))


def test_a_volume_for_one_node_is_a_warning() -> None:
    facts = _facts(claims={"weights": {"spec": {"accessModes": ["ReadWriteOnce"]}}})
    assert all("only one node at a time" in told for told in _said(facts, "warning", small()))
    assert len(_said(facts, "warning", small())) == 2
