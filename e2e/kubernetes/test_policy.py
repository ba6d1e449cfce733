"""A policy, and a number of verifiers, with a real controller behind: from its ConfigMap."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from kubernetes.dynamic.exceptions import InternalServerError
from tests.fleet_examples import a_replica

from dspark.controller.api.tokens import digest
from dspark.rpc.wanted import WantedReplicas
from dspark.wire.fleet import replica_to_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from e2e.kubernetes.cluster import API, NAMESPACE, Cluster
from e2e.kubernetes.fakes import Loop
from e2e.kubernetes.live import PERSON, Controller, apply_policy, policy_conditions
from e2e.kubernetes.specs import plain

Document = dict[str, Any]
NAME, UNIT = "tuned", "verifier-cpu"


def _register(address: str, name: str) -> None:
    """Let a verifier join the fleet."""
    replica = replica_to_wire(a_replica(name, pool=UNIT))
    with grpc.insecure_channel(address) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        stub.Register(control_pb2.RegisterRequest(replica=replica), timeout=10)


@pytest.fixture
def controller(cluster: Cluster, tmp_path: Path) -> Iterator[Controller]:
    token = {"name": "ada", "role": "operator", "sha256": digest(PERSON)}
    spec = {**plain(), "controller": {"apiTokens": [token]}}
    spec["pools"][0]["groups"][0]["replicas"] = {"min": 1, "max": 3}
    cluster.apply(NAME, spec)
    cluster.wait_condition(NAME, "Ready", "True")
    running = Controller(cluster, NAME, tmp_path / "controller.log")
    try:
        _register(running.address, "v0")
        cluster.gateways.controllers[NAME] = [running.url]
        yield running
    finally:
        cluster.gateways.controllers.clear()
        cluster.kuberay.wishes.clear()
        running.stop()
        cluster.delete(NAME)
        cluster.wait_gone(NAME)


def test_a_manifest_and_live_overrides_take_turns(cluster: Cluster, controller: Controller) -> None:
    policies = cluster.admin.resources.get(api_version=API, kind="VerificationPolicy")

    def conditions() -> dict[str, tuple[str, str]]:
        return policy_conditions(cluster, "calm")

    def wait_in_force(status: str, reason: str) -> None:
        cluster.wait(f"InForce={status} {reason}",
                     lambda: conditions().get("InForce") == (status, reason))  # fmt: skip

    def edit(spec: Document) -> None:
        policies.patch(name="calm", namespace=NAMESPACE, body={"spec": spec},
                       content_type="application/merge-patch+json")  # fmt: skip

    spec = {"serviceName": NAME, "mode": "Pinned", "draftTokens": 4, "reason": "a quiet night"}
    apply_policy(cluster, "calm", spec)
    wait_in_force("True", "InForce")
    (layer,) = controller.policy(UNIT)["layers"]
    assert layer["author"] == "dspark-operator"
    assert layer["reason"] == "VerificationPolicy calm: a quiet night"
    assert layer["policy"]["draft_tokens"] == 4

    # Somebody's override wins while it lasts, an edit of the manifest waits for its end.
    controller.set(UNIT, {"cap": 9}, ttl_s=1000)
    wait_in_force("False", "Overridden")
    assert conditions()["Ready"] == ("True", "Applied")
    edit({"draftTokens": 6})
    cluster.wait("the edit to wait", lambda: conditions()["Ready"][1] == "WaitingForOverride")
    assert controller.policy(UNIT)["policy"]["cap"] == 9
    controller.roll_back(UNIT)
    wait_in_force("True", "InForce")
    assert conditions()["Ready"] == ("True", "Applied")
    assert controller.policy(UNIT)["policy"]["draft_tokens"] == 6

    # One whose time is over leaves the manifest as it is by then.
    controller.set(UNIT, {"cap": 9}, ttl_s=1)
    edit({"draftTokens": 7})
    cluster.wait("the edit", lambda: controller.policy(UNIT)["policy"]["draft_tokens"] == 7)
    wait_in_force("True", "InForce")

    # What has no end gives way to the manifest.
    controller.set(UNIT, {"mode": "off"})
    cluster.wait(
        "the manifest again", lambda: controller.policy(UNIT)["policy"]["mode"] == "pinned"
    )
    cluster.wait("an event", lambda: "Replaced" in cluster.events("calm"))

    # A controller that is lost is not known; found again with nothing, it is told.
    lost = cluster.gateways.controllers.pop(NAME)
    wait_in_force("Unknown", "ControllerUnknown")
    cluster.gateways.controllers[NAME] = lost
    wait_in_force("True", "InForce")

    live = cluster.the(API, "VerificationPolicy", "calm")
    assert live["status"]["observedGeneration"] == live["metadata"]["generation"] == 3
    assert live["status"]["pools"][0]["name"] == UNIT
    assert "finalizers" not in live["metadata"], "nothing may hold it when the operator is gone"
    policies.delete(name="calm", namespace=NAMESPACE)
    cluster.wait("the default policy", lambda: controller.policy(UNIT)["layers"] == [])


def test_a_canary_of_a_manifest_lies_beside_the_policy_of_all(
    cluster: Cluster, controller: Controller
) -> None:
    def two_are_there() -> None:
        for name in ("v0", "v1"):
            _register(controller.address, name)

    beating = Loop(two_are_there)
    beating.start()
    apply_policy(cluster, "whole", {"serviceName": NAME, "cap": 9})
    apply_policy(cluster, "share", {"serviceName": NAME, "mode": "Off", "canaryShare": 0.5})
    cluster.wait("both in force", lambda: (
        policy_conditions(cluster, "whole").get("InForce") == ("True", "Canary")
        and policy_conditions(cluster, "share").get("InForce") == ("True", "InForce")
    ))  # fmt: skip
    beating.stop()
    whole, share = controller.policy(UNIT)["layers"]
    assert (whole["policy"]["cap"], share["policy"]["mode"]) == (9, "off")
    policies = cluster.admin.resources.get(api_version=API, kind="VerificationPolicy")
    policies.delete(name="share", namespace=NAMESPACE)
    cluster.wait("the canary's end", lambda: len(controller.policy(UNIT)["layers"]) == 1)
    policies.delete(name="whole", namespace=NAMESPACE)
    cluster.wait("the default policy", lambda: controller.policy(UNIT)["layers"] == [])


def test_the_scale_subresource_is_the_number_of_verifiers(
    cluster: Cluster, controller: Controller
) -> None:
    services = cluster.admin.resources.get(api_version=API, kind="DSparkService")
    path = f"/v1/pools/{UNIT}/replicas"

    def scale(replicas: int) -> None:
        services.scale.patch(name=NAME, namespace=NAMESPACE, body={"spec": {"replicas": replicas}},
                             content_type="application/merge-patch+json")  # fmt: skip

    wanted = WantedReplicas(controller.address, UNIT)
    cluster.kuberay.wishes[NAME] = lambda _: wanted.newest

    def as_many_as_wanted() -> None:
        for number in range(wanted.newest or 1):
            _register(controller.address, f"v{number}")

    verifiers = Loop(as_many_as_wanted)
    verifiers.start()

    # An autoscaler is told where there is nothing to scale: the spec leaves it to the controller.
    with pytest.raises(InternalServerError, match=r"spec\.replicas.* does not exist"):
        services.scale.get(name=NAME, namespace=NAMESPACE)
    services.patch(name=NAME, namespace=NAMESPACE, body={"spec": {"replicas": 1}},
                   content_type="application/merge-patch+json")  # fmt: skip
    cluster.wait("one verifier asked for", lambda: controller.ask("GET", path)["asked"] == 1)
    settings = cluster.the("v1", "ConfigMap", f"{NAME}-controller")["metadata"]["resourceVersion"]
    ray = cluster.the("ray.io/v1", "RayService", NAME)["metadata"]["generation"]
    scale(2)
    cluster.wait("two verifiers asked for", lambda: controller.ask("GET", path)["asked"] == 2)
    assert controller.ask("GET", path)["author"] == "dspark-operator"
    cluster.wait("two verifiers", lambda: (
        services.scale.get(name=NAME, namespace=NAMESPACE).to_dict()["status"]["replicas"] == 2
    ))  # fmt: skip
    told = services.scale.get(name=NAME, namespace=NAMESPACE).to_dict()
    assert told["spec"]["replicas"] == 2
    selector = told["status"]["selector"]
    cluster.wait("two pods", lambda: len(cluster.every("v1", "Pod", selector)) == 2)
    # Nothing was restarted for it.
    now = cluster.the("v1", "ConfigMap", f"{NAME}-controller")["metadata"]["resourceVersion"]
    assert now == settings
    assert cluster.the("ray.io/v1", "RayService", NAME)["metadata"]["generation"] == ray
    # The autoscaler's own controller finds the service's scale; there are no metrics to go by.
    scalers = cluster.admin.resources.get(
        api_version="autoscaling/v1", kind="HorizontalPodAutoscaler"
    )
    target = {"apiVersion": API, "kind": "DSparkService", "name": NAME}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3}
    scalers.create(namespace=NAMESPACE, body={"metadata": {"name": "any"}, "spec": spec})
    cluster.wait("the autoscaler to count", lambda: (
        scalers.get(name="any", namespace=NAMESPACE).to_dict()["status"]["currentReplicas"] == 2
    ))  # fmt: skip
    scalers.delete(name="any", namespace=NAMESPACE)

    # More than the groups may have stops at the spec.
    scale(4)
    cluster.wait_condition(NAME, "Stalled", "True", "InvalidSpec")
    assert "1 to 3, not 4" in cluster.message(NAME, "Stalled")
    assert controller.ask("GET", path)["asked"] == 2
    services.patch(name=NAME, namespace=NAMESPACE, body={"spec": {"replicas": None}},
                   content_type="application/merge-patch+json")  # fmt: skip
    cluster.wait("nothing asked for", lambda: controller.ask("GET", path)["asked"] is None)
    verifiers.stop()
