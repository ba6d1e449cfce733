"""What a cluster has beside its control plane: a kubelet, KubeRay, and a gateway that answers."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3
import yaml
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

Document = dict[str, Any]


class Loop:
    """Calls something again and again until told to stop."""

    def __init__(self, step: Callable[[], None], *, every_s: float = 0.3) -> None:
        self._step = step
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._step()
            except (ApiException, urllib3.exceptions.HTTPError):
                continue  # Somebody else was faster; the next look shows it.


class Kubelet:
    """Makes pods that exist Ready: the image always pulls and the probe always succeeds."""

    def __init__(self, client: DynamicClient) -> None:
        self._pods = client.resources.get(api_version="v1", kind="Pod")

    def step(self) -> None:
        for pod in self._pods.get().items:
            ready = [c for c in pod.status.conditions or [] if c.type == "Ready"]
            if ready and ready[0].status == "True":
                continue
            if pod.status.phase == "Succeeded":
                continue
            now = pod.metadata.creationTimestamp
            if (pod.metadata.labels or {}).get("job-name"):
                self._pods.status.patch(
                    name=pod.metadata.name, namespace=pod.metadata.namespace,
                    body={"status": {"phase": "Succeeded"}},
                    content_type="application/merge-patch+json",
                )  # fmt: skip
                continue
            condition = {"type": "Ready", "status": "True", "lastTransitionTime": now}
            self._pods.status.patch(
                name=pod.metadata.name,
                namespace=pod.metadata.namespace,
                body={"status": {"phase": "Running", "conditions": [condition]}},
                content_type="application/merge-patch+json",
            )


class KubeRay:
    """Makes one RayCluster for a RayService and says that its applications run.

    It takes over what KubeRay takes over in place, and counts every cluster that it makes.
    """

    def __init__(self, client: DynamicClient) -> None:
        self._services = client.resources.get(api_version="ray.io/v1", kind="RayService")
        self._clusters = client.resources.get(api_version="ray.io/v1", kind="RayCluster")
        self.made: list[str] = []

    def step(self) -> None:
        for service in self._services.get().items:
            document = service.to_dict()
            name = document["metadata"]["name"]
            namespace = document["metadata"]["namespace"]
            cluster = f"{name}-raycluster-a"
            try:
                self._clusters.get(name=cluster, namespace=namespace)
            except NotFoundError:
                self._make(cluster, namespace, document)
            self._report(document, cluster)

    def _make(self, cluster: str, namespace: str, service: Document) -> None:
        owner = {
            "apiVersion": "ray.io/v1", "kind": "RayService", "controller": True,
            "name": service["metadata"]["name"], "uid": service["metadata"]["uid"],
        }  # fmt: skip
        self._clusters.create(
            namespace=namespace,
            body={
                "apiVersion": "ray.io/v1", "kind": "RayCluster",
                "metadata": {"name": cluster, "ownerReferences": [owner]},
                "spec": service["spec"]["rayClusterConfig"],
            },
        )  # fmt: skip
        self.made.append(cluster)

    def _report(self, service: Document, cluster: str) -> None:
        serve = yaml.safe_load(service["spec"]["serveConfigV2"])
        applications = {a["name"]: {"status": "RUNNING"} for a in serve["applications"]}
        status = {
            "observedGeneration": service["metadata"]["generation"],
            "activeServiceStatus": {
                "rayClusterName": cluster,
                "applicationStatuses": applications,
            },
        }
        if service.get("status") == status:
            return
        self._services.status.patch(
            name=service["metadata"]["name"],
            namespace=service["metadata"]["namespace"],
            body={"status": status},
            content_type="application/merge-patch+json",
        )


class Gateways:
    """Answers for every gateway at ``/NAMESPACE/SERVICE``: a healthy fleet, and one token."""

    def __init__(self) -> None:
        self.units: dict[str, Document] = {}
        self.tokens = True
        gateways = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(200, gateways.fleet())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if gateways.tokens:
                    self._say(200, {"choices": [{"text": "a"}]})
                else:
                    self._say(503, {"error": {"message": "no verifier"}})

            def _say(self, status: int, document: Document) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/{{namespace}}/{{service}}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fleet(self) -> Document:
        """The fleet as ``/dspark/fleet`` has it."""
        members, pools = [], []
        for unit, told in self.units.items():
            for _ in range(told.get("ready", 1)):
                members.append(
                    {
                        "replica": {"pool": unit, "state": "ready", "curve": {"points": [{}]}},
                        "load": {"connected_drafters": 1},
                    }
                )
            budget = {"epoch": 1, "reason": "verify all", "buckets": [{"draft_tokens": [-1]}]}
            pools.append({"name": unit, "wanted_replicas": None, "budget": budget})
        return {"term": 1, "version": 1, "members": members, "pools": pools}
