"""Stories of the operator on a real API server (v1.20), with the chart's rights and no others.

Not here, because 1.20 has none of it, but offline in tests/operator: CEL rules, policy/v1,
autoscaling/v2, gRPC probes.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from kubernetes.dynamic.exceptions import ForbiddenError, UnprocessibleEntityError

from e2e.kubernetes.cluster import API, NAMESPACE, Cluster
from e2e.kubernetes.control_plane import OPERATOR_TOKEN, ControlPlane, binaries

BINARIES = binaries()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BINARIES is None,
        reason="no kube-apiserver and etcd here: set DSPARK_KUBE_BIN to a folder that has them",
    ),
]

GPU = {"limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 1}}
SPEC: dict[str, Any] = {
    "model": {
        "name": "m",
        "target": {"pvc": {"claimName": "weights", "path": "target"}},
        "drafter": {"pvc": {"claimName": "weights", "path": "drafter"}},
    },
    "pools": [
        {
            "name": "verifier", "role": "verifier",
            "groups": [{"name": "big", "replicas": {"min": 1, "max": 2}, "resources": GPU}],
        },
        {
            "name": "drafter", "role": "drafter",
            "groups": [{"name": "small", "replicas": {"min": 0, "max": 2}, "resources": GPU}],
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("kubernetes")
    assert BINARIES is not None
    plane = ControlPlane(folder, BINARIES)
    try:
        plane.start()
        made = Cluster(plane, folder)
        made.gateways.units = {"verifier-big": {"ready": 1}, "drafter-small": {"ready": 1}}
        made.start_operator()
        try:
            yield made
        finally:
            made.close()
    finally:
        plane.stop()


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> str:
    """A service that is Ready."""
    cluster.apply("llm", deepcopy(SPEC))
    cluster.wait_condition("llm", "Ready", "True", "FirstTokenSeen")
    return "llm"


def _edited(**group: Any) -> dict[str, Any]:
    spec = deepcopy(SPEC)
    spec["pools"][0]["groups"][0].update(group)
    return spec


def _ray(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get("ray.io/v1", "RayService", "llm")
    assert found is not None
    return found


def test_the_api_server_fills_in_defaults_and_refuses_what_is_out_of_bounds(
    cluster: Cluster, running: str
) -> None:
    live = cluster.get(API, "DSparkService", running)
    assert live is not None
    assert live["spec"]["gateway"]["service"]["port"] == 80
    assert live["spec"]["updateStrategy"]["type"] == "None"
    for wrong in (
        _edited(replicasPerPod=0),
        _edited(device="tpu"),
        _edited(engine={"numPages": 1}),
        _edited(replicas={"min": "one"}),
    ):
        with pytest.raises(UnprocessibleEntityError):
            cluster.apply("wrong", wrong)


def test_a_created_service_becomes_ready_and_says_so_everywhere(
    cluster: Cluster, running: str
) -> None:
    told = cluster.conditions(running)
    for kind in ("RouterReady", "VerifierReady", "DrafterReady", "ProfileReady",
                 "BudgetPublished", "SpeculationActive"):  # fmt: skip
        assert told[kind][0] == "True", told
    cluster.wait_condition(running, "Reconciling", "False", "UpToDate")
    service = cluster.get(API, "DSparkService", running)
    assert service is not None
    pools = {pool["name"]: pool for pool in service["status"]["pools"]}
    assert pools["verifier"]["updatedReplicas"] == 1
    assert service["metadata"]["finalizers"] == ["serving.dspark.dev/drain"]
    # What this old cluster does not know is said, not swallowed.
    assert told["ScalingReady"] == ("False", "KindMissing")


def test_a_settled_service_is_not_written_again(cluster: Cluster, running: str) -> None:
    import time

    def versions() -> list[str]:
        names = [("apps/v1", "Deployment", "llm-gateway"), ("v1", "ConfigMap", "llm-gateway"),
                 ("ray.io/v1", "RayService", "llm"), (API, "DSparkService", "llm")]  # fmt: skip
        found = [cluster.get(*name) for name in names]
        return [document["metadata"]["resourceVersion"] for document in found if document]

    cluster.wait_condition(running, "Reconciling", "False")
    time.sleep(3)
    before = versions()
    time.sleep(6)
    assert versions() == before


def test_a_count_reaches_the_running_cluster_and_makes_no_other(
    cluster: Cluster, running: str
) -> None:
    cluster.apply(running, _edited(replicas={"min": 1, "max": 5}))

    def carried() -> bool:
        ray = cluster.get("ray.io/v1", "RayCluster", "llm-raycluster-a")
        assert ray is not None
        return bool(ray["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 5)

    cluster.wait("the bound of the worker group", carried)
    assert _ray(cluster)["spec"]["upgradeStrategy"] == {"type": "None"}
    assert cluster.kuberay.made == ["llm-raycluster-a"]


def test_an_image_is_held_back_and_the_gpus_stay_single(cluster: Cluster, running: str) -> None:
    cluster.apply(running, deepcopy(SPEC))
    cluster.wait_condition(running, "Reconciling", "False", "UpToDate")
    before = _ray(cluster)["spec"]["rayClusterConfig"]
    cluster.apply(running, {**deepcopy(SPEC), "images": {"engine": "dspark-engine:2.0.0"}})
    cluster.wait_condition(running, "Stalled", "True", "NewClusterNeeded")
    assert cluster.conditions(running)["Ready"][0] == "True"
    assert _ray(cluster)["spec"]["rayClusterConfig"] == before
    cluster.apply(running, deepcopy(SPEC))
    cluster.wait_condition(running, "Stalled", "False")


def test_a_child_edited_by_hand_is_restored(cluster: Cluster, running: str) -> None:
    services = cluster.admin.resources.get(api_version="v1", kind="Service")
    services.patch(
        name="llm-gateway", namespace=NAMESPACE,
        body={"spec": {"ports": [{"name": "http", "port": 81, "targetPort": "http"}]}},
        content_type="application/merge-patch+json",
    )  # fmt: skip
    config = cluster.admin.resources.get(api_version="v1", kind="ConfigMap")
    config.delete(name="llm-controller", namespace=NAMESPACE)

    def restored() -> bool:
        service = cluster.get("v1", "Service", "llm-gateway")
        assert service is not None
        ports = [port["port"] for port in service["spec"]["ports"]]
        return ports == [80] and cluster.get("v1", "ConfigMap", "llm-controller") is not None

    cluster.wait("the Service and the ConfigMap as they were", restored)


def test_a_mistake_stops_everything_but_what_runs(cluster: Cluster, running: str) -> None:
    wrong = deepcopy(SPEC)
    wrong["pools"][0]["groups"][0]["replicas"] = {"min": 2, "max": 1}
    cluster.apply(running, wrong)
    cluster.wait_condition(running, "Stalled", "True", "InvalidSpec")
    service = cluster.get(API, "DSparkService", running)
    assert service is not None
    (told,) = [c for c in service["status"]["conditions"] if c["type"] == "Stalled"]
    assert told["message"].startswith("spec.pools[0].groups[0].replicas: min must not be above")
    assert cluster.get("apps/v1", "Deployment", "llm-gateway") is not None
    cluster.apply(running, deepcopy(SPEC))
    cluster.wait_condition(running, "Ready", "True")


def test_decoding_without_drafts_is_told(cluster: Cluster, running: str) -> None:
    cluster.gateways.units = {"verifier-big": {"ready": 1}}
    cluster.wait_condition(running, "SpeculationActive", "False", "NoDrafterReady")
    assert cluster.conditions(running)["Ready"][0] == "True"
    cluster.gateways.units = {"verifier-big": {"ready": 1}, "drafter-small": {"ready": 1}}
    cluster.wait_condition(running, "SpeculationActive", "True")


def test_an_operator_killed_half_way_is_followed_by_another(cluster: Cluster, running: str) -> None:
    standby = cluster.start_operator()
    cluster.kill(cluster._operators[0])
    cluster.apply(running, _edited(engine={"maxSessions": 9}))

    def taken_up() -> bool:
        return "max_sessions: 9" in _ray(cluster)["spec"]["serveConfigV2"]

    cluster.wait("the edit, applied by the other operator", taken_up, patience_s=90)
    assert standby.poll() is None
    cluster.wait_condition(running, "Reconciling", "False", "UpToDate")


def test_two_operators_have_one_leader(cluster: Cluster, running: str) -> None:
    import time

    third = cluster.start_operator()
    time.sleep(8)
    assert third.poll() is None
    assert "leading as" not in cluster.log(len(cluster._operators) - 1)
    cluster.kill(third)


def test_the_operator_may_not_do_what_it_has_no_business_with(cluster: Cluster) -> None:
    operator = cluster.client(OPERATOR_TOKEN)
    secrets = operator.resources.get(api_version="v1", kind="Secret")
    with pytest.raises(ForbiddenError):
        secrets.get(namespace=NAMESPACE)
    roles = operator.resources.get(api_version="rbac.authorization.k8s.io/v1", kind="Role")
    with pytest.raises(ForbiddenError):
        roles.create(namespace=NAMESPACE, body={"metadata": {"name": "more"}, "rules": []})
    pods = operator.resources.get(api_version="v1", kind="Pod")
    with pytest.raises(ForbiddenError):
        pods.get(namespace="kube-system")


def test_a_deleted_service_is_drained_and_leaves_nothing(cluster: Cluster, running: str) -> None:
    cluster.delete(running)

    def gone() -> bool:
        return cluster.get(API, "DSparkService", running) is None

    cluster.wait("the service to be gone", gone, patience_s=90)
    for api_version, kind, name in (
        ("apps/v1", "Deployment", "llm-gateway"),
        ("apps/v1", "Deployment", "llm-controller"),
        ("v1", "Service", "llm-gateway"),
        ("v1", "ConfigMap", "llm-gateway"),
        ("v1", "ServiceAccount", "llm-engine"),
        ("ray.io/v1", "RayService", "llm"),
        ("ray.io/v1", "RayCluster", "llm-raycluster-a"),
    ):
        cluster.wait(
            f"{kind} {name} to be collected",
            lambda a=api_version, k=kind, n=name: cluster.get(a, k, n) is None,
        )
