"""One service from its creation to its end, on a real API server with the chart's rights.

The server is v1.20.  Not here, because it has none of it, but offline in tests/operator: CEL
rules, policy/v1, autoscaling/v2, gRPC probes, port ranges of NetworkPolicies.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from kubernetes.dynamic.exceptions import UnprocessibleEntityError

from e2e.kubernetes.cluster import API, NAMESPACE, Cluster
from e2e.kubernetes.specs import group, pair

Document = dict[str, Any]
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> str:
    """A service that is Ready."""
    cluster.apply("llm", pair())
    cluster.wait_condition("llm", "Ready", "True", "FirstTokenSeen")
    return "llm"


@pytest.fixture
def settled(cluster: Cluster, running: str) -> str:
    """... and has nothing left to do, not even to roll.

    A Deployment that is turned back in the middle of a rollout may be without a pod for a moment.
    """
    cluster.apply(running, pair())
    cluster.wait_condition(running, "Reconciling", "False", "UpToDate")
    for component in ("gateway", "controller"):
        cluster.wait("a rollout's end", lambda c=component: _rolled_out(cluster, c))
    cluster.wait_condition(running, "Ready", "True")
    return running


def _rolled_out(cluster: Cluster, component: str) -> bool:
    deployment = cluster.the("apps/v1", "Deployment", f"llm-{component}")
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return seen and all(status.get(count) == wanted for count in counts)


def _ray(cluster: Cluster) -> Document:
    return cluster.the("ray.io/v1", "RayService", "llm")


def _settings(cluster: Cluster) -> dict[str, Document]:
    """The settings of every Serve application by unit."""
    serve = yaml.safe_load(_ray(cluster)["spec"]["serveConfigV2"])
    made = {}
    for application in serve["applications"]:
        role = application["args"]["pool"]
        made[application["name"]] = application["args"]["system"]["pools"][role]["settings"]
    return made


def _pod(cluster: Cluster, component: str) -> Document:
    deployment = cluster.the("apps/v1", "Deployment", f"llm-{component}")
    template: Document = deployment["spec"]["template"]
    return template


def test_the_api_server_fills_in_defaults_and_refuses_what_is_out_of_bounds(
    cluster: Cluster, running: str
) -> None:
    live = cluster.the(API, "DSparkService", running)
    assert live["spec"]["gateway"]["service"]["port"] == 80
    assert live["spec"]["updateStrategy"]["type"] == "None"
    for change in (
        {"replicasPerPod": 0}, {"device": "tpu"}, {"engine": {"numPages": 1}},
        {"replicas": {"min": "one"}},
    ):  # fmt: skip
        wrong = pair()
        wrong["pools"][0]["groups"][0].update(change)
        with pytest.raises(UnprocessibleEntityError):
            cluster.apply("wrong", wrong)


def test_a_created_service_becomes_ready_and_says_so_everywhere(
    cluster: Cluster, running: str
) -> None:
    cluster.wait_condition(running, "Reconciling", "False", "UpToDate")
    for kind in ("RouterReady", "VerifierReady", "DrafterReady", "ProfileReady",
                 "BudgetPublished", "SpeculationActive"):  # fmt: skip
        cluster.wait_condition(running, kind, "True")
    told = cluster.conditions(running)
    service = cluster.the(API, "DSparkService", running)
    pools = {pool["name"]: pool for pool in service["status"]["pools"]}
    assert pools["verifier"]["updatedReplicas"] == 1
    assert service["metadata"]["finalizers"] == ["serving.dspark.dev/drain"]
    # What this old cluster does not know is said, not swallowed.
    assert told["ScalingReady"] == ("False", "KindMissing")
    (job,) = cluster.children("batch/v1", "Job", running)
    assert job["status"]["succeeded"] == 1
    reasons = cluster.events(running)
    assert reasons.index("CheckingPair") < reasons.index("Creating"), reasons
    assert "FirstTokenSeen" in reasons


def test_a_settled_service_is_not_written_again(cluster: Cluster, settled: str) -> None:
    names = [("apps/v1", "Deployment", "llm-gateway"), ("v1", "ConfigMap", "llm-gateway"),
             ("ray.io/v1", "RayService", "llm"), (API, "DSparkService", "llm")]  # fmt: skip

    def versions() -> list[str]:
        return [cluster.the(*name)["metadata"]["resourceVersion"] for name in names]

    time.sleep(3)
    before = versions()
    time.sleep(6)
    assert versions() == before


def _count(cluster: Cluster) -> bool:
    live = cluster.the("ray.io/v1", "RayCluster", "llm-raycluster-a")
    return bool(live["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 5)


def _an_added_group(cluster: Cluster) -> bool:
    live = cluster.the("ray.io/v1", "RayCluster", "llm-raycluster-a")
    names = [entry["groupName"] for entry in live["spec"]["workerGroupSpecs"]]
    ready = cluster.kubelet.ready.get("llm", {})
    return names[-1] == "verifier-more" and ready.get("verifier-more") == 1


def _edit(**fields: Any) -> Callable[[Document], None]:
    return lambda spec: spec.update(fields)


def _first_group(**fields: Any) -> Callable[[Document], None]:
    return lambda spec: spec["pools"][0]["groups"][0].update(fields)


IN_PLACE: dict[str, tuple[Callable[[Document], None], Callable[[Cluster], bool]]] = {
    "a count": (_first_group(replicas={"min": 1, "max": 5}), _count),
    "an engine setting": (
        _first_group(engine={"maxSessions": 9}),
        lambda c: _settings(c)["dspark-verifier-big"].get("max_sessions") == 9
        and "max_sessions" not in _settings(c)["dspark-drafter-small"],
    ),
    "a speculation default": (
        _edit(speculation={"cohorts": 2}),
        lambda c: _settings(c)["dspark-verifier-big"].get("cohorts") == 2,
    ),
    "a toleration": (
        _first_group(tolerations=[{"key": "gpu", "operator": "Exists"}]),
        lambda c: "tolerations"
        in _ray(c)["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"],
    ),
    "an added group": (
        lambda spec: spec["pools"][0]["groups"].append(group("more", 1, 1)),
        _an_added_group,
    ),
    "the gateway's count": (
        _edit(gateway={"replicas": 2}),
        lambda c: c.the("apps/v1", "Deployment", "llm-gateway")["spec"]["replicas"] == 2,
    ),
    "a gateway setting": (
        _edit(gateway={"settings": {"drainSeconds": 60}}),
        lambda c: _pod(c, "gateway")["spec"]["terminationGracePeriodSeconds"] == 80,
    ),
    "a controller setting": (
        _edit(controller={"settings": {"tickSeconds": 0.7}}),
        lambda c: "tick_s\": 0.7"
        in c.the("v1", "ConfigMap", "llm-controller")["data"]["controller.json"],
    ),
    "how a group scales": (
        _first_group(scaling={"utilisation": 0.5}),
        lambda c: "\"utilisation\": 0.5"
        in c.the("v1", "ConfigMap", "llm-controller")["data"]["controller.json"],
    ),
    "several controllers": (
        _edit(controller={"replicas": 2, "store": {"type": "Redis",
                                                   "redis": {"address": "redis:6379"}}}),
        lambda c: c.the("apps/v1", "Deployment", "llm-controller")["status"].get("readyReplicas")
        == 2
        and c.the("v1", "Service", "llm-controllers")["spec"]["clusterIP"] == "None",
    ),
    "the server image": (
        _edit(images={"server": "dspark-server:2.0.0"}),
        lambda c: _pod(c, "gateway")["spec"]["containers"][0]["image"] == "dspark-server:2.0.0"
        and _pod(c, "controller")["spec"]["containers"][0]["image"] == "dspark-server:2.0.0",
    ),
    "the gateway's port": (
        _edit(gateway={"service": {"port": 8080}}),
        lambda c: c.the("v1", "Service", "llm-gateway")["spec"]["ports"][0]["port"] == 8080,
    ),
    "no network policies": (
        _edit(network={"policies": False}),
        lambda c: c.get("networking.k8s.io/v1", "NetworkPolicy", "llm-engine") is None,
    ),
    "an ingress": (
        _edit(gateway={"ingress": {"host": "llm.example.org", "tlsSecretName": "tls"}}),
        lambda c: c.get("networking.k8s.io/v1", "Ingress", "llm-gateway") is not None,
    ),
    "a description": (_edit(description="for people"), lambda c: True),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_edit_goes_out_in_place(cluster: Cluster, settled: str, name: str) -> None:
    change, done = IN_PLACE[name]
    spec = pair()
    change(spec)
    cluster.apply(settled, spec)
    cluster.wait(name, lambda: done(cluster))
    cluster.wait_condition(settled, "Reconciling", "False", "UpToDate")
    assert cluster.conditions(settled)["Ready"][0] == "True", cluster.message(settled, "Ready")
    assert _ray(cluster)["spec"]["upgradeStrategy"] == {"type": "None"}
    assert cluster.kuberay.made[settled] == ["llm-raycluster-a"]
    assert cluster.kubelet.most_gpus[settled] <= 3


def test_what_an_edit_added_goes_when_it_is_taken_back(cluster: Cluster, settled: str) -> None:
    for kind, api_version in (("Ingress", "networking.k8s.io/v1"),):
        assert cluster.get(api_version, kind, "llm-gateway") is None
    assert cluster.get("networking.k8s.io/v1", "NetworkPolicy", "llm-engine") is not None

    def drained() -> bool:
        return "verifier-more" not in cluster.kubelet.ready["llm"]

    cluster.wait("the removed group at zero", drained)
    live = cluster.the("ray.io/v1", "RayCluster", "llm-raycluster-a")
    assert live["spec"]["workerGroupSpecs"][-1]["groupName"] == "verifier-more"


HELD: dict[str, Callable[[Document], None]] = {
    "an engine image": _edit(images={"engine": "dspark-engine:2.0.0"}),
    "resources": _first_group(resources={"limits": {"cpu": "4", "nvidia.com/gpu": 1}}),
    "a node selector": _first_group(nodeSelector={"sku": "b200"}),
    "weights": lambda spec: spec["model"]["target"]["pvc"].update(path="other"),
    "Ray's version": _edit(ray={"version": "2.61.0"}),
    "a collector of traces": _edit(observability={"otlpEndpoint": "http://traces:4317"}),
}


@pytest.mark.parametrize("name", HELD)
def test_an_edit_that_needs_a_new_cluster_is_held_back(
    cluster: Cluster, settled: str, name: str
) -> None:
    before = _ray(cluster)["spec"]["rayClusterConfig"]
    spec = pair()
    HELD[name](spec)
    cluster.apply(settled, spec)
    cluster.wait_condition(settled, "Stalled", "True", "NewClusterNeeded")
    assert cluster.conditions(settled)["Ready"][0] == "True", cluster.message(settled, "Ready")
    assert _ray(cluster)["spec"]["rayClusterConfig"] == before
    assert cluster.kuberay.made[settled] == ["llm-raycluster-a"]


def test_a_drafter_of_another_target_is_refused_before_anything_is_rolled(
    cluster: Cluster, settled: str
) -> None:
    before = _ray(cluster)["metadata"]["generation"]
    gateway = cluster.the("apps/v1", "Deployment", "llm-gateway")["metadata"]["generation"]
    spec = pair()
    spec["model"]["drafter"]["pvc"]["claimName"] = "unfit"
    spec["gateway"] = {"replicas": 2}
    cluster.apply(settled, spec)
    cluster.wait_condition(settled, "Stalled", "True", "IncompatibleDrafter")
    assert cluster.message(settled, "Stalled") == "the drafter expects another target"
    assert _ray(cluster)["metadata"]["generation"] == before
    now = cluster.the("apps/v1", "Deployment", "llm-gateway")["metadata"]["generation"]
    assert now == gateway
    assert cluster.conditions(settled)["Ready"][0] == "True", cluster.message(settled, "Ready")


def test_a_child_edited_by_hand_is_restored_and_the_labels_of_others_stay(
    cluster: Cluster, settled: str
) -> None:
    services = cluster.admin.resources.get(api_version="v1", kind="Service")
    services.patch(
        name="llm-gateway", namespace=NAMESPACE, content_type=MERGE,
        body={
            "metadata": {"annotations": {"cloud.example.org/balancer": "lb-1"}},
            "spec": {"ports": [{"name": "http", "port": 81, "targetPort": "http"}]},
        },
    )  # fmt: skip
    deployments = cluster.admin.resources.get(api_version="apps/v1", kind="Deployment")
    deployments.patch(
        name="llm-gateway", namespace=NAMESPACE, body={"spec": {"replicas": 0}}, content_type=MERGE
    )
    config = cluster.admin.resources.get(api_version="v1", kind="ConfigMap")
    config.delete(name="llm-controller", namespace=NAMESPACE)

    def restored() -> bool:
        ports = cluster.the("v1", "Service", "llm-gateway")["spec"]["ports"]
        replicas = cluster.the("apps/v1", "Deployment", "llm-gateway")["spec"]["replicas"]
        return (
            [port["port"] for port in ports] == [80]
            and replicas == 1
            and cluster.get("v1", "ConfigMap", "llm-controller") is not None
        )

    cluster.wait("everything as it was", restored)
    kept = cluster.the("v1", "Service", "llm-gateway")["metadata"]["annotations"]
    assert kept["cloud.example.org/balancer"] == "lb-1"


def test_a_mistake_stops_everything_but_what_runs(cluster: Cluster, settled: str) -> None:
    wrong = pair()
    wrong["pools"][0]["groups"][0]["replicas"] = {"min": 2, "max": 1}
    cluster.apply(settled, wrong)
    cluster.wait_condition(settled, "Stalled", "True", "InvalidSpec")
    told = cluster.message(settled, "Stalled")
    assert told.startswith("spec.pools[0].groups[0].replicas: min must not be above")
    assert cluster.get("apps/v1", "Deployment", "llm-gateway") is not None


def test_decoding_without_drafts_is_told(cluster: Cluster, settled: str) -> None:
    cluster.gateways.silent.add("drafter-small")
    cluster.wait_condition(settled, "SpeculationActive", "False", "NoDrafterReady")
    assert cluster.conditions(settled)["Ready"][0] == "True", cluster.message(settled, "Ready")
    cluster.gateways.silent.clear()
    cluster.wait_condition(settled, "SpeculationActive", "True")


def test_a_deleted_ray_service_comes_back_with_the_held_edit_and_no_gpu_twice(
    cluster: Cluster, settled: str
) -> None:
    spec = pair()
    HELD["an engine image"](spec)
    cluster.apply(settled, spec)
    cluster.wait_condition(settled, "Stalled", "True", "NewClusterNeeded")
    cluster.kubelet.most_gpus.clear()
    rays = cluster.admin.resources.get(api_version="ray.io/v1", kind="RayService")
    rays.delete(name="llm", namespace=NAMESPACE)
    cluster.wait_condition(settled, "Reconciling", "False", "UpToDate")
    cluster.wait_condition(settled, "Ready", "True")
    head = _ray(cluster)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["image"] == "dspark-engine:2.0.0"
    assert cluster.kubelet.most_gpus[settled] == 2


def test_a_deleted_service_is_drained_and_leaves_nothing(cluster: Cluster, running: str) -> None:
    cluster.delete(running)
    cluster.wait_gone(running)
    kinds = [("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ConfigMap"), ("v1", "Pod"),
             ("v1", "ServiceAccount"), ("v1", "PersistentVolumeClaim"), ("batch/v1", "Job"),
             ("networking.k8s.io/v1", "NetworkPolicy"), ("ray.io/v1", "RayService")]  # fmt: skip
    for kind in kinds:
        cluster.wait(f"no {kind[1]}", lambda k=kind: cluster.children(*k, running) == [])
    assert cluster.get("ray.io/v1", "RayCluster", "llm-raycluster-b") is None
    reasons = cluster.events(running)
    order = [reasons.index(reason) for reason in ("DrainingGateway", "DrainingEngines", "Drained")]
    assert order == sorted(order), reasons
