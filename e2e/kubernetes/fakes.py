"""What a cluster has beside its control plane: nodes, a kubelet, volumes, KubeRay, gateways.

The scheduler, the garbage collector and the controllers of Deployments and Jobs are the real ones.
"""

import json
import math
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3
import yaml
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

Document = dict[str, Any]
MERGE = "application/merge-patch+json"
SERVICE = "serving.dspark.dev/service"
POOL = "serving.dspark.dev/pool"
GROUP = "serving.dspark.dev/group"
GPU = "nvidia.com/gpu"
UNFIT_CLAIM = "unfit"
"""A drafter on this claim belongs to no target."""


def listed(resource: Any, **chosen: Any) -> list[Document]:
    """Objects of a kind as plain documents: quicker than the client's own wrapping."""
    found: list[Document] = json.loads(resource.get(serialize=False, **chosen).data)["items"]
    return found


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


def add_node(client: DynamicClient, name: str, labels: dict[str, str], gpus: int) -> None:
    """Make a node by hand, ready and without the taint of a new one."""
    room = {"cpu": "1000", "memory": "8Ti", "ephemeral-storage": "8Ti", "pods": "2000"}
    room |= {GPU: str(gpus)} if gpus else {}
    nodes = client.resources.get(api_version="v1", kind="Node")
    nodes.create(body={"metadata": {"name": name, "labels": labels}})
    nodes.patch(name=name, body={"spec": {"taints": None}}, content_type=MERGE)
    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"capacity": room, "allocatable": room, "conditions": [condition]}
    nodes.status.patch(name=name, body={"status": status}, content_type=MERGE)


class Volumes:
    """Makes a volume for every claim that has none."""

    def __init__(self, client: DynamicClient) -> None:
        self._claims = client.resources.get(api_version="v1", kind="PersistentVolumeClaim")
        self._volumes = client.resources.get(api_version="v1", kind="PersistentVolume")

    def step(self) -> None:
        made = {volume["metadata"]["name"] for volume in listed(self._volumes)}
        for claim in listed(self._claims):
            given = claim["metadata"]
            if given["uid"] in made:
                continue
            spec = {
                "capacity": claim["spec"]["resources"]["requests"],
                "accessModes": claim["spec"]["accessModes"],
                "hostPath": {"path": "/nowhere"},
                "claimRef": {key: given[key] for key in ("name", "namespace", "uid")},
            }
            self._volumes.create(body={"metadata": {"name": given["uid"]}, "spec": spec})


class Kubelet:
    """Runs the pods that the scheduler has bound, and ends those that are deleted.

    Images always pull and probes always succeed.  A pair check succeeds unless its drafter lies on
    the claim ``unfit``.

    Args:
        client: Of the API server.
        programs: By container: starts what it would run, given its command and arguments.
    """

    def __init__(
        self,
        client: DynamicClient,
        programs: dict[str, Callable[[list[str]], "subprocess.Popen[bytes]"]],
    ) -> None:
        self._pods = client.resources.get(api_version="v1", kind="Pod")
        self._programs = programs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.ready: dict[str, dict[str, int]] = {}
        """Ready pods by service, by unit."""
        self.most_gpus: dict[str, int] = {}
        """Most GPUs that the pods of a service held at any time."""

    def step(self) -> None:
        pods = listed(self._pods)
        self._count(pods)
        for pod in pods:
            if not pod["spec"].get("nodeName"):
                continue
            if pod["metadata"].get("deletionTimestamp"):
                self._end(pod)
            elif pod["spec"]["containers"][0]["name"] in self._programs:
                self._run(pod)
            elif pod["status"].get("phase") == "Pending":
                self._patch(pod, self._outcome(pod))

    def _run(self, pod: Document) -> None:
        """Start a pod's program, or tell how it ended."""
        uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
        if phase == "Pending" and uid not in self._running:
            (container,) = pod["spec"]["containers"]
            words = [*container["command"], *container.get("args", [])]
            self._running[uid] = self._programs[container["name"]](words)
            self._patch(pod, {"phase": "Running"})
        elif phase == "Running" and self._running[uid].poll() is not None:
            ended = self._running[uid].returncode
            self._patch(pod, {"phase": "Failed" if ended else "Succeeded"})

    def _outcome(self, pod: Document) -> Document:
        container = pod["spec"]["containers"][0]["name"]
        if pod["metadata"].get("labels", {}).get("job-name"):
            claims = [
                volume.get("persistentVolumeClaim", {}).get("claimName")
                for volume in pod["spec"]["volumes"]
            ]
            said = {"exitCode": 1, "message": "dspark: the drafter expects another target\n"}
            ended = said if UNFIT_CLAIM in claims else {"exitCode": 0}
            phase = "Failed" if UNFIT_CLAIM in claims else "Succeeded"
            told = {
                "name": container, "image": "i", "imageID": "i", "ready": False,
                "restartCount": 0, "state": {"terminated": ended},
            }  # fmt: skip
            return {"phase": phase, "containerStatuses": [told]}
        now = pod["metadata"]["creationTimestamp"]
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        return {"phase": "Running", "conditions": [condition]}

    def _patch(self, pod: Document, status: Document) -> None:
        given = pod["metadata"]
        self._pods.status.patch(
            name=given["name"], namespace=given["namespace"], body={"status": status},
            content_type=MERGE,
        )  # fmt: skip

    def _end(self, pod: Document) -> None:
        given = pod["metadata"]
        self._pods.delete(
            name=given["name"], namespace=given["namespace"], body={"gracePeriodSeconds": 0}
        )

    def _count(self, pods: list[Document]) -> None:
        ready: dict[str, dict[str, int]] = {}
        gpus: dict[str, int] = {}
        for pod in pods:
            labels = pod["metadata"].get("labels", {})
            service = labels.get(SERVICE)
            if service is None or not pod["spec"].get("nodeName"):
                continue
            for container in pod["spec"]["containers"]:
                limits = container.get("resources", {}).get("limits", {})
                gpus[service] = gpus.get(service, 0) + int(limits.get(GPU, 0))
            unit = f"{labels.get(POOL)}-{labels.get(GROUP)}"
            if pod["status"].get("phase") == "Running":
                units = ready.setdefault(service, {})
                units[unit] = units.get(unit, 0) + 1
        self.ready = ready
        for service, count in gpus.items():
            self.most_gpus[service] = max(self.most_gpus.get(service, 0), count)


class KubeRay:
    """Does to RayServices what KubeRay 1.4 does, in small.

    A changed cluster configuration, beyond counts and groups added at the end, makes a second
    cluster unless upgrades are off; an incremental one grows by the surge while the old one
    shrinks.  Serve's replicas decide on pods, within the bounds that the RayCluster has.
    """

    def __init__(self, client: DynamicClient) -> None:
        self._services = client.resources.get(api_version="ray.io/v1", kind="RayService")
        self._clusters = client.resources.get(api_version="ray.io/v1", kind="RayCluster")
        self._pods = client.resources.get(api_version="v1", kind="Pod")
        self._configs = client.resources.get(api_version="v1", kind="ConfigMap")
        self.made: dict[str, list[str]] = {}
        """Clusters made for each service, in order."""
        self.hold = threading.Event()
        """While set, an upgrade makes no progress."""
        self.wishes: dict[str, Callable[[str], int | None]] = {}
        """What the controller of a service wishes for a unit, where one runs."""
        self._share: dict[str, int] = {}

    def step(self) -> None:
        pods = listed(self._pods, label_selector="ray.io/cluster")
        for service in listed(self._services):
            if service["metadata"].get("deletionTimestamp"):
                continue
            try:
                self._look_after(service, pods)
            except (ApiException, urllib3.exceptions.HTTPError):
                continue

    def _look_after(self, service: Document, pods: list[Document]) -> None:
        name = service["metadata"]["name"]
        status = service.get("status") or {}
        active = (status.get("activeServiceStatus") or {}).get("rayClusterName")
        pending = (status.get("pendingServiceStatus") or {}).get("rayClusterName")
        config = service["spec"]["rayClusterConfig"]
        upgrade = service["spec"]["upgradeStrategy"]
        if not active:
            active = self._make(service, share=100)
        live = self._cluster(service, active)
        if live is None:
            return
        if _same_but_for_added(live["spec"], config):
            added = config["workerGroupSpecs"][len(live["spec"]["workerGroupSpecs"]) :]
            if added and not pending:
                self._append(live, added)
        elif upgrade["type"] != "None" and not pending:
            pending = self._make(service, share=0)
        if pending:
            surge = upgrade["clusterUpgradeOptions"]["maxSurgePercent"]
            old, new = self._share.get(active, 100), self._share.get(pending, 0)
            if not self.hold.is_set():
                grown = min(100, new + surge) if old + new <= 100 else new
                self._share[pending] = grown
                self._share[active] = 100 - grown if grown == new else old
            if self._share.get(active, 100) == 0:
                self._clusters.delete(name=active, namespace=service["metadata"]["namespace"])
                active, pending = pending, None
        for cluster in filter(None, (active, pending)):
            self._run(service, cluster, pods)
        self._report(service, name, active, pending)

    def _cluster(self, service: Document, name: str) -> Document | None:
        try:
            answer = self._clusters.get(
                name=name, namespace=service["metadata"]["namespace"], serialize=False
            )
        except NotFoundError:
            return None
        found: Document = json.loads(answer.data)
        return found

    def _make(self, service: Document, *, share: int) -> str:
        made = self.made.setdefault(service["metadata"]["name"], [])
        name = f"{service['metadata']['name']}-raycluster-{chr(ord('a') + len(made))}"
        self._clusters.create(
            namespace=service["metadata"]["namespace"],
            body={
                "apiVersion": "ray.io/v1", "kind": "RayCluster",
                "metadata": {"name": name, "ownerReferences": [_owner(service, "RayService")]},
                "spec": service["spec"]["rayClusterConfig"],
            },
        )  # fmt: skip
        made.append(name)
        self._share[name] = share
        return name

    def _append(self, live: Document, added: list[Document]) -> None:
        self._clusters.patch(
            name=live["metadata"]["name"], namespace=live["metadata"]["namespace"],
            body=[{"op": "add", "path": "/spec/workerGroupSpecs/-", "value": g} for g in added],
            content_type="application/json-patch+json",
        )  # fmt: skip

    def _run(self, service: Document, name: str, pods: list[Document]) -> None:
        cluster = self._cluster(service, name)
        if cluster is None:
            return
        wished = self._wished(service)
        serve = yaml.safe_load(service["spec"]["serveConfigV2"])
        scale = {
            application["name"].removeprefix("dspark-"): application["deployments"][0]
            for application in serve["applications"]
        }
        self._keep(cluster, "head", cluster["spec"]["headGroupSpec"]["template"], 1, pods)
        for group in cluster["spec"]["workerGroupSpecs"]:
            unit = group["groupName"]
            wanted = 0
            if unit in scale:
                bounds = scale[unit]["autoscaling_config"]
                replicas = max(wished.get(unit, 0), bounds["min_replicas"])
                slots = int(group["resources"][f"dspark-{unit}"])
                share = math.ceil(replicas * self._share.get(name, 100) / 100)
                wanted = min(math.ceil(share / slots), group["maxReplicas"])
            self._keep(cluster, unit, group["template"], wanted, pods)

    def _wished(self, service: Document) -> dict[str, int]:
        """What the controller wishes for as long as nobody asked for anything else."""
        name = f"{service['metadata']['name']}-controller"
        answer = self._configs.get(
            name=name, namespace=service["metadata"]["namespace"], serialize=False
        )
        settings = json.loads(json.loads(answer.data)["data"]["controller.json"])
        found: dict[str, int] = settings["initial_replicas"]
        asked = self.wishes.get(service["metadata"]["name"])
        if asked is not None:
            found |= {unit: wish for unit in found if (wish := asked(unit)) is not None}
        return found

    def _keep(
        self, cluster: Document, group: str, template: Document, wanted: int, pods: list[Document]
    ) -> None:
        name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
        labels = {"ray.io/cluster": name, "ray.io/group": group}
        mine = [
            pod
            for pod in pods
            if labels.items() <= pod["metadata"]["labels"].items()
            and not pod["metadata"].get("deletionTimestamp")
        ]
        taken = {pod["metadata"]["name"] for pod in mine}
        for number in range(wanted):
            pod = f"{name}-{group}-{number}"
            if pod in taken:
                continue
            given = {
                "name": pod, "ownerReferences": [_owner(cluster, "RayCluster")],
                "labels": {**template["metadata"]["labels"], **labels},
            }  # fmt: skip
            self._pods.create(
                namespace=namespace, body={"metadata": given, "spec": template["spec"]}
            )
        for pod in sorted(taken)[wanted:]:
            self._pods.delete(name=pod, namespace=namespace)

    def _report(self, service: Document, name: str, active: str, pending: str | None) -> None:
        serve = yaml.safe_load(service["spec"]["serveConfigV2"])
        applications = {a["name"]: {"status": "RUNNING"} for a in serve["applications"]}
        status: Document = {
            "observedGeneration": service["metadata"]["generation"],
            "activeServiceStatus": {
                "rayClusterName": active,
                "applicationStatuses": applications,
            },
        }
        status["pendingServiceStatus"] = {"rayClusterName": pending} if pending else None
        before = service.get("status") or {}
        if {**before, "pendingServiceStatus": before.get("pendingServiceStatus")} != status:
            self._services.status.patch(
                name=name, namespace=service["metadata"]["namespace"],
                body={"status": status}, content_type=MERGE,
            )  # fmt: skip


def _owner(document: Document, kind: str) -> Document:
    return {
        "apiVersion": "ray.io/v1", "kind": kind, "controller": True,
        "name": document["metadata"]["name"], "uid": document["metadata"]["uid"],
    }  # fmt: skip


def _same_but_for_added(live: Document, config: Document) -> bool:
    """Say whether KubeRay would go on with the cluster that it has."""

    def muted(group: Document) -> Document:
        counts = ("replicas", "minReplicas", "maxReplicas", "scaleStrategy")
        return {key: value for key, value in group.items() if key not in counts}

    ours, theirs = live["workerGroupSpecs"], config["workerGroupSpecs"]
    rest = [{k: v for k, v in c.items() if k != "workerGroupSpecs"} for c in (live, config)]
    return rest[0] == rest[1] and list(map(muted, ours)) == list(map(muted, theirs[: len(ours)]))


def _asked(request: urllib.request.Request) -> tuple[int, Document]:
    """Return status and body; 0 where nobody is there."""
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError as error:
        return 0, {"error": {"message": str(error)}}


class Gateways:
    """Answers for every gateway at ``/NAMESPACE/SERVICE``: the fleet that runs, and one token.

    What is asked of ``/control/NAMESPACE/SERVICE`` goes on to the controller that a story runs.
    """

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet
        self.silent: set[str] = set()
        """Units whose replicas the controller has lost."""
        self.controllers: dict[str, list[str]] = {}
        """Base URLs of the control APIs by service, where there are any."""
        self.real: dict[str, str] = {}
        """Base URL of a real gateway by service, where there is one."""
        gateways = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/control/"):
                    self._pass_on()
                elif not self._passed_to_a_gateway(None):
                    self._say(200, gateways.fleet(self.path.split("/")[2]))

            def do_PUT(self) -> None:
                self._pass_on()

            def do_DELETE(self) -> None:
                self._pass_on()

            def _pass_on(self, body: bytes | None = None) -> None:
                _, _, _, service, rest = self.path.split("/", 4)
                found = gateways.controllers.get(service, [])
                if body is None:
                    body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
                headers = {
                    key: self.headers[key]
                    for key in ("authorization", "content-type", "if-match")
                    if key in self.headers
                }
                for base in found:
                    # Standbys answer some questions, too: the operator looks for the leader.
                    leads, _ = _asked(urllib.request.Request(f"{base}/v1/curves", None, headers))
                    if leads != 200:
                        continue
                    self._say(*_asked(urllib.request.Request(
                        f"{base}/{rest}", body, headers, method=self.command
                    )))  # fmt: skip
                    return
                if rest == "v1/fleet" and service not in gateways.real:
                    self._say(200, gateways.controllers_view(service))
                    return
                self._say(503, {"error": {"message": "no controller leads"}})

            def _passed_to_a_gateway(self, body: bytes | None) -> bool:
                _, _, service, rest = self.path.split("/", 3)
                base = gateways.real.get(service)
                if base is None:
                    return False
                request = urllib.request.Request(
                    f"{base}/{rest}", body, {"content-type": "application/json"}
                )
                status, document = _asked(request)
                self._say(status or 503, document)
                return True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path.startswith("/control/"):
                    self._pass_on(body)
                    return
                if self._passed_to_a_gateway(body):
                    return
                units = gateways.units(self.path.split("/")[2])
                if any(unit.startswith("verifier-") for unit in units):
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
        base = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{base}/{{namespace}}/{{service}}"
        self.control_url = f"{base}/control/{{namespace}}/{{service}}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def units(self, service: str) -> dict[str, int]:
        """Ready replicas by unit."""
        found = self._kubelet.ready.get(service, {})
        return {unit: count for unit, count in found.items() if unit not in self.silent}

    def fleet(self, service: str) -> Document:
        """The fleet as ``/dspark/fleet`` has it."""
        members = []
        for unit, ready in self.units(service).items():
            members += [{"replica": {"pool": unit, "state": "ready"}}] * ready
        return {"term": 1, "version": 1, "members": members, "pools": []}

    def controllers_view(self, service: str) -> Document:
        """The fleet as a control API's ``/v1/fleet`` has it."""
        replica = {"state": "ready", "curve_version": "c", "connected_drafters": 1}
        pools = [
            {"name": unit, "replicas": [replica] * ready, "budget": "verify all", "drafting": True}
            for unit, ready in self.units(service).items()
        ]
        return {"term": 1, "pools": pools}
