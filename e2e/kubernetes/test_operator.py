"""The operator itself: killed, doubled, short of nodes, with fifty services, without rights."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ForbiddenError

from dspark_operator.prerequisites import findings
from dspark_operator.spec.parse import parse_service
from dspark_operator.survey import survey
from e2e.kubernetes.cluster import API, CHART, NAMESPACE, OPERATORS, PATIENCE_S, Cluster
from e2e.kubernetes.control_plane import OPERATOR_TOKEN
from e2e.kubernetes.specs import group, pair, plain

Document = dict[str, Any]


def test_an_operator_killed_half_way_through_an_upgrade_is_followed_by_another(
    cluster: Cluster,
) -> None:
    spec = pair()
    spec["pools"][0]["groups"] = [group("big", 4, 4)]
    spec["pools"][1]["groups"] = [group("small", 2, 2)]
    surge = {"maxPercent": 50, "stepPercent": 50, "gatewayClassName": "any"}
    spec["updateStrategy"] = {"type": "NewClusterWithIncrementalUpgrade", "surge": surge}
    cluster.apply("roll", spec)
    cluster.wait_condition("roll", "Reconciling", "False", "UpToDate")
    cluster.wait_condition("roll", "Ready", "True")
    assert cluster.kubelet.most_gpus["roll"] == 6

    cluster.kuberay.hold.set()
    cluster.apply("roll", {**spec, "images": {"engine": "dspark-engine:2.0.0"}})

    def half_way() -> bool:
        status = cluster.the("ray.io/v1", "RayService", "roll")["status"]
        return bool((status.get("pendingServiceStatus") or {}).get("rayClusterName"))

    cluster.wait("a second cluster", half_way)
    cluster.kill_operators()
    standby = cluster.start_operator()
    cluster.kuberay.hold.clear()
    cluster.wait_condition("roll", "Reconciling", "False", "UpToDate", patience_s=120)
    assert standby.poll() is None
    active = cluster.the("ray.io/v1", "RayService", "roll")["status"]["activeServiceStatus"]
    assert active["rayClusterName"] == "roll-raycluster-b"
    assert cluster.kuberay.made["roll"] == ["roll-raycluster-a", "roll-raycluster-b"]
    assert cluster.get("ray.io/v1", "RayCluster", "roll-raycluster-a") is None
    # Half as many again at the most, and the bounds of every day afterwards.
    assert cluster.kubelet.most_gpus["roll"] <= 9
    taken_over = cluster.the("ray.io/v1", "RayCluster", "roll-raycluster-b")
    bounds = [entry["minReplicas"] for entry in taken_over["spec"]["workerGroupSpecs"]]
    assert bounds == [4, 2]
    assert cluster.conditions("roll")["Ready"][0] == "True"
    cluster.delete("roll")
    cluster.wait_gone("roll")


def test_two_operators_have_one_leader(cluster: Cluster) -> None:
    second = cluster.start_operator()
    time.sleep(8)
    assert second.poll() is None
    assert "leading as" not in cluster.log()
    cluster.kill(second)


def test_a_kind_of_node_that_is_not_there_is_told_and_the_others_serve(cluster: Cluster) -> None:
    spec = pair()
    spec["pools"][0]["groups"].append(group("rare", 1, 1, nodeSelector={"sku": "none"}))
    cluster.apply("odd", spec)
    cluster.wait_condition("odd", "ScalingReady", "False", "InsufficientCapacity")
    cluster.wait_condition("odd", "Ready", "True", "FirstTokenSeen")
    cluster.wait_condition("odd", "VerifierReady", "False", "TooFewReplicas")
    assert "verifier-rare" in cluster.message("odd", "ScalingReady")
    cluster.delete("odd")
    cluster.wait_gone("odd")


def test_fifty_services_become_ready_rest_and_go(cluster: Cluster) -> None:
    cluster.kill_operators()
    cluster.start_operator(period_s=15)  # as it is by default
    names = [f"s{number:02d}" for number in range(50)]
    for name in names:
        cluster.apply(name, plain())
    for name in names:
        cluster.wait_condition(name, "Ready", "True", patience_s=900)
    for name in names:
        cluster.wait_condition(name, "Reconciling", "False", "UpToDate", patience_s=120)

    def versions() -> list[str]:
        found = []
        for api_version, kind in ((API, "DSparkService"), ("ray.io/v1", "RayService"),
                                  ("v1", "ConfigMap"), ("v1", "Service")):  # fmt: skip
            for item in cluster.every(api_version, kind):
                found.append(item["metadata"]["resourceVersion"])
        return found

    time.sleep(15)
    before = versions()
    time.sleep(20)
    assert versions() == before, "a settled service is written again"
    for name in names:
        cluster.delete(name)
    for name in names:
        cluster.wait_gone(name, patience_s=900)
    assert cluster.every("ray.io/v1", "RayService") == []
    cluster.kill_operators()
    cluster.start_operator()


FORBIDDEN: dict[str, Callable[[DynamicClient], object]] = {
    "read Secrets": lambda c: c.resources.get(api_version="v1", kind="Secret").get(
        namespace=NAMESPACE
    ),
    "give itself rights": lambda c: c.resources.get(
        api_version="rbac.authorization.k8s.io/v1", kind="Role"
    ).create(namespace=NAMESPACE, body={"metadata": {"name": "more"}, "rules": []}),
    "look into other namespaces": lambda c: c.resources.get(api_version="v1", kind="Pod").get(
        namespace="kube-system"
    ),
    "make pods": lambda c: c.resources.get(api_version="v1", kind="Pod").create(
        namespace=NAMESPACE,
        body={"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    ),
    "look at nodes": lambda c: c.resources.get(api_version="v1", kind="Node").get(),
    "delete a service": lambda c: c.resources.get(api_version=API, kind="DSparkService").delete(
        name="any", namespace=NAMESPACE
    ),
    "change its own Deployment": lambda c: c.resources.get(
        api_version="apps/v1", kind="Deployment"
    ).delete(name="dspark-operator", namespace=OPERATORS),
    "take another lease": lambda c: c.resources.get(
        api_version="coordination.k8s.io/v1", kind="Lease"
    ).get(name="other", namespace=OPERATORS),
}  # fmt: skip


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_operator_may_not(cluster: Cluster, what: str) -> None:
    with pytest.raises(ForbiddenError):
        FORBIDDEN[what](cluster.client(OPERATOR_TOKEN))


def test_the_check_of_a_cluster_says_what_is_there_and_what_may_not_be_seen(
    cluster: Cluster,
) -> None:
    metadata = {"name": "llm", "namespace": NAMESPACE, "uid": "u"}
    service = parse_service({"metadata": metadata, "spec": pair()})

    def said(client: DynamicClient) -> dict[str, list[str]]:
        told: dict[str, list[str]] = {"ok": [], "warning": [], "missing": []}
        for finding in findings(survey(client, NAMESPACE), service):
            told[finding.level].append(finding.message)
        return told

    all_seen = said(cluster.admin)
    assert all_seen["missing"] == [
        "no default storage class for the controller's volume: name one in "
        "controller.store.embedded.storageClassName, or set persistent to false there"
    ]
    assert "ray.io/v1/RayService is served" in all_seen["ok"]
    assert "group verifier-big: 1 nodes can take its pods" in all_seen["ok"]
    assert all_seen["warning"][0].startswith("Kubernetes 1.20: meant for 1.28")
    half_seen = said(cluster.client(OPERATOR_TOKEN))
    assert half_seen["missing"] == []
    assert "group verifier-big: no right to look at nodes" in half_seen["warning"]


def test_an_instance_comes_and_goes_with_its_release(cluster: Cluster) -> None:
    profile = str(CHART / "profiles" / "kind-cpu-demo.yaml")
    words = (str(CHART), "-n", NAMESPACE, "-f", profile, "--set", "operator.enabled=false")
    refused = cluster.helm("install", "demo", *words, "--set", "instance.spec.gateway.replica=2")
    assert refused.returncode != 0
    assert "replica is not allowed" in refused.stderr
    done = cluster.helm("install", "demo", *words)
    assert done.returncode == 0, done.stderr
    (name,) = [s["metadata"]["name"] for s in cluster.every(API, "DSparkService")]
    cluster.wait_condition(name, "Ready", "True")
    done = cluster.helm("upgrade", "demo", *words, "--set", "instance.spec.gateway.replicas=2")
    assert done.returncode == 0, done.stderr
    cluster.wait(
        "two gateways",
        lambda: cluster.the("apps/v1", "Deployment", f"{name}-gateway")["spec"]["replicas"] == 2,
    )
    done = cluster.helm("uninstall", "demo", "-n", NAMESPACE)
    assert done.returncode == 0, done.stderr
    cluster.wait_gone(name)


def test_a_release_goes_after_its_own_instance_and_never_leaves_services_of_others(
    cluster: Cluster,
) -> None:
    profile = str(CHART / "profiles" / "kind-cpu-demo.yaml")
    done = cluster.helm(
        "install", "own", str(CHART), "-n", NAMESPACE, "-f", profile, "--set", "instance.name=own"
    )
    assert done.returncode == 0, done.stderr
    cluster.apply("other", plain())
    for name in ("own", "other"):
        cluster.wait_condition(name, "Ready", "True")
    uninstall = ("uninstall", "own", "-n", NAMESPACE, "--timeout", f"{PATIENCE_S:.0f}s")
    refused = cluster.helm(*uninstall)
    assert refused.returncode != 0
    assert "serving/other would be left without an operator" in cluster.uninstall_log()
    assert cluster.get("apps/v1", "Deployment", "own-dspark-operator") is not None
    assert cluster.conditions("own")["Ready"][0] == "True"

    cluster.delete("other")
    cluster.wait_gone("other")
    done = cluster.helm(*uninstall)
    assert done.returncode == 0, done.stderr
    assert cluster.uninstall_log().splitlines()[-1] == "no service is left"
    assert cluster.get(API, "DSparkService", "own") is None
    reasons = cluster.events("own")
    assert reasons.index("DrainingGateway") < reasons.index("DrainingEngines")
    left = [("apps/v1", "Deployment"), ("v1", "ServiceAccount"), ("batch/v1", "Job"),
            ("rbac.authorization.k8s.io/v1", "Role"), ("v1", "Secret")]  # fmt: skip
    for kind in left:
        found = [d["metadata"]["name"] for d in cluster.every(*kind)]
        assert not [name for name in found if name.startswith("own-")], kind
