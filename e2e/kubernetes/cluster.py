"""The cluster that the stories are told on: installed with Helm, entered, and asked."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from e2e.kubernetes.control_plane import (
    ADMIN_TOKEN,
    OPERATOR_TOKEN,
    UNINSTALL_TOKEN,
    ControlPlane,
)
from e2e.kubernetes.fakes import (
    UNFIT_CLAIM,
    Gateways,
    Kubelet,
    KubeRay,
    Loop,
    Volumes,
    add_node,
    listed,
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/dspark"
KUBERAY = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared/data/kuberay"))
HELM = shutil.which(os.environ.get("DSPARK_HELM") or "helm")
NAMESPACE = "serving"
OPERATORS = "operators"
GPUS = 64
API = "serving.dspark.dev/v1alpha1"
PATIENCE_S = 90.0

Document = dict[str, Any]


class Cluster:
    """A control plane with CRDs, rights and fakes; operators are started by the stories."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._folder = folder
        self.admin = self.client(ADMIN_TOKEN)
        self._install()
        self.kubelet = Kubelet(self.admin, {"uninstall": self._run_uninstall})
        self.kuberay = KubeRay(self.admin)
        self.gateways = Gateways(self.kubelet)
        steps = (self.kubelet.step, self.kuberay.step, Volumes(self.admin).step)
        self._loops = [Loop(step) for step in steps]
        for loop in self._loops:
            loop.start()
        self._operators: list[subprocess.Popen[bytes]] = []

    def client(self, token: str) -> DynamicClient:
        """Return a client with a token's rights."""
        path = str(self._plane.kubeconfig(token))
        return DynamicClient(config.new_client_from_config(config_file=path))

    def close(self) -> None:
        for process in self._operators:
            self.kill(process)
        for loop in self._loops:
            loop.stop()
        self.gateways.stop()

    def start_operator(
        self, *, period_s: float = 2, gateway_url: str = "", control_url: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start an operator with the rights of the chart and no others.

        Args:
            period_s: How often it looks at each service; quicker than the default, for the stories.
            gateway_url: Where it finds every gateway; "": at the fakes.
            control_url: ... and every control API.
        """
        words = [
            sys.executable, "-m", "dspark_operator", "--namespace", NAMESPACE,
            "--lease-namespace", OPERATORS, "--engine-image", "dspark-engine:1.0.0",
            "--server-image", "dspark-server:1.0.0", "--health-port", "0",
            "--period-s", str(period_s), "--gateway-url", gateway_url or self.gateways.url,
            "--control-key-file", str(self._folder / "control-key"),
            "--control-url", control_url or self.gateways.control_url,
        ]  # fmt: skip
        with (self._folder / f"operator-{len(self._operators)}.log").open("wb") as log:
            process = subprocess.Popen(
                words, env=self._environment(OPERATOR_TOKEN), stdout=log, stderr=subprocess.STDOUT
            )
        self._operators.append(process)
        return process

    def _environment(self, token: str) -> dict[str, str]:
        """What a process of ours needs to reach the API server with a token's rights."""
        return {
            **os.environ,
            "KUBECONFIG": str(self._plane.kubeconfig(token)),
            "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'operators'}",
            "PYTHONWARNINGS": "ignore",
        }

    def _run_uninstall(self, words: list[str]) -> "subprocess.Popen[bytes]":
        """Run what the hook's container would, with the hook's rights."""
        with (self._folder / "uninstall.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words[1:]], env=self._environment(UNINSTALL_TOKEN),
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def uninstall_log(self) -> str:
        """What the uninstall hook said, in all its runs."""
        return (self._folder / "uninstall.log").read_text()

    def kill_operators(self) -> None:
        """End every operator at once."""
        for process in self._operators:
            self.kill(process)

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """End an operator at once."""
        process.kill()
        process.wait(timeout=20)

    def log(self) -> str:
        """What the newest operator wrote."""
        return (self._folder / f"operator-{len(self._operators) - 1}.log").read_text()

    def apply(self, name: str, spec: Document) -> None:
        """Create or replace a DSparkService's spec."""
        services = self.admin.resources.get(api_version=API, kind="DSparkService")
        try:
            live = services.get(name=name, namespace=NAMESPACE).to_dict()
        except NotFoundError:
            document = {"apiVersion": API, "kind": "DSparkService", "metadata": {"name": name}}
            services.create(namespace=NAMESPACE, body={**document, "spec": spec})
            return
        services.patch(
            name=name,
            namespace=NAMESPACE,
            body=[{"op": "replace", "path": "/spec", "value": spec}],
            content_type="application/json-patch+json",
        )
        assert live

    def delete(self, name: str) -> None:
        """Ask for the deletion of a DSparkService."""
        services = self.admin.resources.get(api_version=API, kind="DSparkService")
        services.delete(name=name, namespace=NAMESPACE)

    def get(self, api_version: str, kind: str, name: str) -> Document | None:
        """Return an object, or None."""
        resource = self.admin.resources.get(api_version=api_version, kind=kind)
        try:
            answer = resource.get(name=name, namespace=NAMESPACE, serialize=False)
        except NotFoundError:
            return None
        found: Document = json.loads(answer.data)
        return found

    def the(self, api_version: str, kind: str, name: str) -> Document:
        """Return an object that exists."""
        found = self.get(api_version, kind, name)
        assert found is not None, f"{kind} {name}"
        return found

    def every(self, api_version: str, kind: str, selector: str = "") -> list[Document]:
        """Return the objects of a kind."""
        resource = self.admin.resources.get(api_version=api_version, kind=kind)
        return listed(resource, namespace=NAMESPACE, label_selector=selector)

    def children(self, api_version: str, kind: str, name: str) -> list[Document]:
        """Return the objects of a kind that belong to a service."""
        return self.every(api_version, kind, f"serving.dspark.dev/service={name}")

    def events(self, name: str) -> list[str]:
        """Return the reasons of a service's events, in the order in which they were posted."""
        found = [e for e in self.every("v1", "Event") if e["involvedObject"].get("name") == name]
        found.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        # Of the newest service of that name.
        owner = found[-1]["involvedObject"]["uid"] if found else ""
        return [e["reason"] for e in found if e["involvedObject"]["uid"] == owner]

    def message(self, name: str, kind: str) -> str:
        """Return the message of a condition."""
        conditions = self.the(API, "DSparkService", name)["status"]["conditions"]
        (told,) = [str(c["message"]) for c in conditions if c["type"] == kind]
        return told

    def conditions(self, name: str) -> dict[str, tuple[str, str]]:
        """Return a service's conditions: {type: (status, reason)}."""
        service = self.get(API, "DSparkService", name) or {}
        status = service.get("status") or {}
        return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions") or []}

    def observed(self, name: str) -> bool:
        """Say whether the status speaks of the newest spec."""
        service = self.get(API, "DSparkService", name) or {}
        seen = (service.get("status") or {}).get("observedGeneration")
        return bool(service and seen == service["metadata"]["generation"])

    def wait(
        self, what: str, holds: Callable[[], object], *, patience_s: float = PATIENCE_S
    ) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: It does not, in time; with the end of the operator's log.
        """
        deadline = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {patience_s:.0f} s: {what}\n{self.log()[-4000:]}")
            time.sleep(0.3)

    def wait_condition(
        self, name: str, kind: str, status: str, reason: str | None = None, *,
        patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        """Wait until a condition of the newest spec has a status, and a reason if one is given."""

        def holds() -> bool:
            told = self.conditions(name).get(kind)
            right = told is not None and told[0] == status and reason in (None, told[1])
            return right and self.observed(name)

        try:
            self.wait(f"{name}: {kind}={status} {reason or ''}", holds, patience_s=patience_s)
        except AssertionError as error:
            raise AssertionError(f"{self.conditions(name)}\n{error}") from None

    def wait_gone(self, name: str, *, patience_s: float = 120.0) -> None:
        """Wait until a deleted service is gone."""
        self.wait(
            f"{name} to be gone",
            lambda: self.get(API, "DSparkService", name) is None,
            patience_s=patience_s,
        )

    def helm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Helm as an administrator."""
        assert HELM is not None
        return subprocess.run(
            [HELM, "--kubeconfig", str(self._plane.kubeconfig(ADMIN_TOKEN)), *words],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def _install(self) -> None:
        for name in (OPERATORS, NAMESPACE):
            self._create("v1", "Namespace", {"metadata": {"name": name}}, None)
        for crd in _kuberay_crds():
            self._create("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd, None)
            self._wait_established(crd["metadata"]["name"])
        done = self.helm(
            "install", "dspark", str(CHART), "-n", OPERATORS,
            "--set", f"operator.watchNamespaces={{{NAMESPACE}}}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        secrets = self.admin.resources.get(api_version="v1", kind="Secret")
        made = secrets.get(name="dspark-control-key", namespace=OPERATORS).to_dict()
        (self._folder / "control-key").write_bytes(base64.b64decode(made["data"]["key"]))
        for plural in ("dsparkservices", "verificationpolicies"):
            self._wait_established(f"{plural}.serving.dspark.dev")
        self.admin.resources.invalidate_cache()
        add_node(self.admin, "front", {}, 0)
        add_node(self.admin, "gpus", {"sku": "h200"}, GPUS)
        claims = ("weights", UNFIT_CLAIM)
        for name in claims:
            spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
            claim = {"metadata": {"name": name}, "spec": spec}
            self._create("v1", "PersistentVolumeClaim", claim, NAMESPACE)

    def _create(self, api_version: str, kind: str, body: Document, namespace: str | None) -> None:
        resource = self.admin.resources.get(api_version=api_version, kind=kind)
        document = {**body, "apiVersion": api_version, "kind": kind}
        resource.create(body=document, **({"namespace": namespace} if namespace else {}))

    def _wait_established(self, name: str) -> None:
        resource = self.admin.resources.get(
            api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition"
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            conditions = resource.get(name=name).to_dict().get("status", {}).get("conditions") or []
            told = {c["type"]: (c["status"], c["message"]) for c in conditions}
            assert told.get("NonStructuralSchema", ("False", ""))[0] == "False", told
            if told.get("Established", ("False", ""))[0] == "True":
                return
            time.sleep(1)
        raise AssertionError(f"{name} is not established: {told}")


def _kuberay_crds() -> list[Document]:
    """Return KubeRay's CRDs where they lie beside us, else ones that take anything."""
    files = sorted(KUBERAY.glob("ray.io_ray*.yaml"))
    if files:
        return [
            _without_empty_defaults(yaml.load(path.read_text(), Loader=yaml.CSafeLoader))
            for path in files
        ]
    made = []
    for kind in ("RayService", "RayCluster"):
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        made.append(
            {
                "metadata": {"name": f"{kind.lower()}s.ray.io"},
                "spec": {
                    "group": "ray.io", "scope": "Namespaced",
                    "names": {"kind": kind, "plural": f"{kind.lower()}s", "listKind": f"{kind}List",
                              "singular": kind.lower()},
                    "versions": [
                        {
                            "name": "v1", "served": True, "storage": True,
                            "subresources": {"status": {}},
                            "schema": {"openAPIV3Schema": anything},
                        }
                    ],
                },
            }
        )  # fmt: skip
    return made


def _without_empty_defaults(node: Any) -> Any:
    """A CRD as v1.20 takes it: it reads a default of "" as null, and null is no string.

    Lists that are told apart by such a field become plain lists.
    """
    if isinstance(node, list):
        return [_without_empty_defaults(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: _without_empty_defaults(value)
        for key, value in node.items()
        if not (key == "default" and value == "")
    }
    fields = (node.get("items") or {}).get("properties") or {}
    keys = node.get("x-kubernetes-list-map-keys") or []
    if any((fields.get(key) or {}).get("default") == "" for key in keys):
        del made["x-kubernetes-list-map-keys"], made["x-kubernetes-list-type"]
    return made
