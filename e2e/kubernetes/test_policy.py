"""A policy as a manifest, with a real controller process behind it, started from its ConfigMap."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fleet_examples import a_replica

from dspark.controller.api.tokens import digest
from dspark.wire.fleet import replica_to_wire
from dspark.wire.v1 import control_pb2, control_pb2_grpc
from e2e.kubernetes.cluster import API, NAMESPACE, Cluster
from e2e.kubernetes.specs import plain

Document = dict[str, Any]
NAME, UNIT = "tuned", "verifier-cpu"
PERSON = "token of a person"
START_S = 60.0


class Controller:
    """A controller with the settings that the operator wrote, at other addresses, with a verifier.

    What is changed: nothing may be written into the machine's folders, and ports have to be free.
    """

    def __init__(self, settings: Document, log: Path) -> None:
        own = {"host": "127.0.0.1", "api_host": "127.0.0.1", "port": 0, "api_port": 0,
               "metrics_port": 0, "store": "memory"}  # fmt: skip
        words = ["-m", "dspark.controller", "--config-json", json.dumps({**settings, **own})]
        with log.open("wb") as out:
            self._process = subprocess.Popen([sys.executable, *words], stderr=out)
        self._log = log
        self.url = ""

    def start(self, cluster: Cluster) -> None:
        """Wait until it leads, and register a verifier."""
        cluster.wait("a controller", lambda: self._said("controller at "), patience_s=START_S)
        self.url = self._said("control API at ")
        replica = replica_to_wire(a_replica("v0", pool=UNIT))
        with grpc.insecure_channel(self._said("controller at ").rstrip(",")) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            stub.Register(control_pb2.RegisterRequest(replica=replica), timeout=10)

    def _said(self, words: str) -> str:
        for line in self._log.read_text().splitlines():
            if words in line:
                return line.partition(words)[2].split()[0]
        return ""

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def policy(self) -> Document:
        """What the unit's policy is."""
        found: Document = self._ask("GET", "")
        return found

    def set(self, policy: Document, *, ttl_s: float | None = None) -> None:
        """Change it as a person."""
        self._ask("PUT", "", {"policy": policy, "reason": "a peak", "ttl_s": ttl_s})

    def roll_back(self) -> None:
        """Undo the last change as a person."""
        self._ask("POST", "/rollback", {"reason": "the peak is over"})

    def _ask(self, method: str, path: str, body: Document | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/v1/pools/{UNIT}/policy{path}",
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {PERSON}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture
def controller(cluster: Cluster, tmp_path: Path) -> Iterator[Controller]:
    token = {"name": "ada", "role": "operator", "sha256": digest(PERSON)}
    cluster.apply(NAME, {**plain(), "controller": {"apiTokens": [token]}})
    cluster.wait_condition(NAME, "Ready", "True")
    config = cluster.the("v1", "ConfigMap", f"{NAME}-controller")["data"]["controller.json"]
    running = Controller(json.loads(config), tmp_path / "controller.log")
    try:
        running.start(cluster)
        cluster.gateways.controllers[NAME] = running.url
        yield running
    finally:
        cluster.gateways.controllers.clear()
        running.stop()
        cluster.delete(NAME)
        cluster.wait_gone(NAME)


def test_a_manifest_and_live_overrides_take_turns(cluster: Cluster, controller: Controller) -> None:
    policies = cluster.admin.resources.get(api_version=API, kind="VerificationPolicy")

    def conditions() -> dict[str, tuple[str, str]]:
        status = cluster.the(API, "VerificationPolicy", "calm").get("status") or {}
        return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions") or []}

    def wait_in_force(status: str, reason: str) -> None:
        cluster.wait(f"InForce={status} {reason}",
                     lambda: conditions().get("InForce") == (status, reason))  # fmt: skip

    def edit(spec: Document) -> None:
        policies.patch(name="calm", namespace=NAMESPACE, body={"spec": spec},
                       content_type="application/merge-patch+json")  # fmt: skip

    spec = {"serviceName": NAME, "mode": "Pinned", "draftTokens": 4, "reason": "a quiet night"}
    policies.create(namespace=NAMESPACE, body={
        "apiVersion": API, "kind": "VerificationPolicy", "metadata": {"name": "calm"}, "spec": spec,
    })  # fmt: skip
    wait_in_force("True", "InForce")
    (layer,) = controller.policy()["layers"]
    assert layer["author"] == "dspark-operator"
    assert layer["reason"] == "VerificationPolicy calm: a quiet night"
    assert layer["policy"]["draft_tokens"] == 4

    # Somebody's override wins while it lasts, an edit of the manifest waits for its end.
    controller.set({"cap": 9}, ttl_s=1000)
    wait_in_force("False", "Overridden")
    assert conditions()["Ready"] == ("True", "Applied")
    edit({"draftTokens": 6})
    cluster.wait("the edit to wait", lambda: conditions()["Ready"][1] == "WaitingForOverride")
    assert controller.policy()["policy"]["cap"] == 9
    controller.roll_back()
    wait_in_force("True", "InForce")
    assert conditions()["Ready"] == ("True", "Applied")
    assert controller.policy()["policy"]["draft_tokens"] == 6

    # One whose time is over leaves the manifest as it is by then.
    controller.set({"cap": 9}, ttl_s=1)
    edit({"draftTokens": 7})
    cluster.wait("the edit", lambda: controller.policy()["policy"]["draft_tokens"] == 7)
    wait_in_force("True", "InForce")

    # What has no end gives way to the manifest.
    controller.set({"mode": "off"})
    cluster.wait("the manifest again", lambda: controller.policy()["policy"]["mode"] == "pinned")
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
    cluster.wait("the default policy", lambda: controller.policy()["layers"] == [])
