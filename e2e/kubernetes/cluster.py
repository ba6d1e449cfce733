"""The cluster that the stories are told on: installed, entered, and asked."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from e2e.kubernetes.control_plane import ADMIN_TOKEN, OPERATOR_TOKEN, OPERATOR_USER, ControlPlane
from e2e.kubernetes.fakes import Gateways, Kubelet, KubeRay, Loop

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/dspark"
KUBERAY = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared/data/kuberay"))
NAMESPACE = "serving"
API = "serving.dspark.dev/v1alpha1"
PATIENCE_S = 60.0

Document = dict[str, Any]


class Cluster:
    """A control plane with CRDs, rights and fakes; operators are started by the stories."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        urllib3.disable_warnings()
        self._plane = plane
        self._folder = folder
        self.admin = self.client(ADMIN_TOKEN)
        self._install()
        self.gateways = Gateways()
        self.kuberay = KubeRay(self.admin)
        self._loops = [Loop(Kubelet(self.admin).step), Loop(self.kuberay.step)]
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

    def start_operator(self) -> subprocess.Popen[bytes]:
        """Start an operator with the rights of the chart and no others."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._plane.kubeconfig(OPERATOR_TOKEN)),
            "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'operators'}",
            "PYTHONWARNINGS": "ignore",
        }
        log = (self._folder / f"operator-{len(self._operators)}.log").open("wb")
        process = subprocess.Popen(
            [
                sys.executable, "-m", "dspark_operator", "--namespace", NAMESPACE,
                "--lease-namespace", "operators", "--engine-image", "dspark-engine:1.0.0",
                "--server-image", "dspark-server:1.0.0", "--health-port", "0",
                "--period-s", "2", "--gateway-url", self.gateways.url,
            ],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._operators.append(process)
        return process

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """End an operator at once."""
        process.kill()
        process.wait(timeout=20)

    def log(self, number: int = 0) -> str:
        """What an operator wrote."""
        return (self._folder / f"operator-{number}.log").read_text()

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
            found: Document = resource.get(name=name, namespace=NAMESPACE).to_dict()
        except NotFoundError:
            return None
        return found

    def conditions(self, name: str) -> dict[str, tuple[str, str]]:
        """Return a service's conditions: {type: (status, reason)}."""
        service = self.get(API, "DSparkService", name) or {}
        status = service.get("status") or {}
        return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions") or []}

    def observed(self, name: str) -> bool:
        """Say whether the status speaks of the newest spec."""
        service = self.get(API, "DSparkService", name) or {}
        seen = (service.get("status") or {}).get("observedGeneration")
        return bool(seen == service["metadata"]["generation"])

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

    def wait_condition(self, name: str, kind: str, status: str, reason: str | None = None) -> None:
        """Wait until a condition of the newest spec has a status, and a reason if one is given."""

        def holds() -> bool:
            told = self.conditions(name).get(kind)
            right = told is not None and told[0] == status and reason in (None, told[1])
            return right and self.observed(name)

        self.wait(f"{name}: {kind}={status} {reason or ''}", holds)

    def _install(self) -> None:
        for name in ("operators", NAMESPACE):
            self._create("v1", "Namespace", {"metadata": {"name": name}}, None)
        crds = [yaml.safe_load(path.read_text()) for path in (CHART / "crds").glob("*.yaml")]
        crds += _kuberay_crds()
        for crd in crds:
            self._create("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd, None)
        for crd in crds:
            self._wait_established(crd["metadata"]["name"])
        self.admin.resources.invalidate_cache()
        role = {"metadata": {"name": "dspark-operator"}, "rules": operator_rules()}
        self._create("rbac.authorization.k8s.io/v1", "Role", role, NAMESPACE)
        lease = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
        lease_role = {
            "metadata": {"name": "dspark-operator"},
            "rules": [{**lease, "verbs": ["create", "get", "update"]}],
        }
        self._create("rbac.authorization.k8s.io/v1", "Role", lease_role, "operators")
        binding = {
            "metadata": {"name": "dspark-operator"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dspark-operator",
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR_USER}
            ],
        }  # fmt: skip
        for namespace in (NAMESPACE, "operators"):
            self._create("rbac.authorization.k8s.io/v1", "RoleBinding", binding, namespace)

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
            time.sleep(0.2)
        raise AssertionError(f"{name} is not established: {told}")


def operator_rules() -> list[Document]:
    """Return the rights that the chart gives the operator, as the chart has them."""
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    block = re.search(r'define "dspark.rules" -}}\n(.*?)\n{{- end }}', helpers, re.S)
    assert block is not None
    rules: list[Document] = yaml.safe_load(block.group(1))
    return rules


def _kuberay_crds() -> list[Document]:
    """Return KubeRay's CRDs where they lie beside us, else ones that take anything."""
    files = sorted(KUBERAY.glob("ray.io_ray*.yaml"))
    if files:
        return [yaml.load(path.read_text(), Loader=yaml.CSafeLoader) for path in files]
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
