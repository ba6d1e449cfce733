"""Real processes of one service, with the settings that the operator wrote for them.

What is changed of the settings: ports have to be free, everything listens on this machine only, and
nothing may be written into the machine's folders.
"""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from e2e.kubernetes.cluster import NAMESPACE, Cluster
from e2e.kubernetes.control_plane import free_port
from e2e.replica_process import ReplicaProcess

Document = dict[str, Any]
PERSON = "token of a person"
NO_MOUNTS: Mapping[str, Path] = {}
ANYBODY = ssl._create_unverified_context()
"""As a kubelet's probe: whoever answers."""
START_S = 60.0


class Controller:
    """A controller; it may stand by.

    Args:
        cluster: Where its ConfigMap is.
        service: Whose it is.
        log: Where it writes to.
        port: Of gRPC: several of one service have the same, since only one that leads listens.
        api_port: Of the control API; 0: a free one.
        password: Of the store, where it is a Redis.
        mounts: Folders here by folders of the pod.
    """

    def __init__(
        self, cluster: Cluster, service: str, log: Path, *, port: int = 0, api_port: int = 0,
        password: str = "", mounts: Mapping[str, Path] = NO_MOUNTS,
    ) -> None:  # fmt: skip
        settings = _settings(cluster, service, "controller", mounts)
        own = {"host": "127.0.0.1", "api_host": "127.0.0.1", "port": port, "api_port": api_port,
               "metrics_port": 0}  # fmt: skip
        if "://" not in settings["store"]:
            own["store"] = "memory"
        words = ["-m", "dspark.controller", "--config-json", json.dumps({**settings, **own})]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, *words], stderr=out,
                env={**os.environ, "DSPARK_REDIS_PASSWORD": password},
            )  # fmt: skip
        self._cluster = cluster
        self._log = log

    @property
    def url(self) -> str:
        """Base URL of the control API."""
        self._cluster.wait("a control API", lambda: self._said("control API at "),
                           patience_s=START_S)  # fmt: skip
        return self._said("control API at ")

    @property
    def address(self) -> str:
        """Where it listens for replicas, once it leads."""
        self._cluster.wait("a controller that leads", lambda: self.leads, patience_s=START_S)
        return self._said("controller at ").rstrip(",")

    @property
    def leads(self) -> bool:
        """Whether it ever led."""
        return bool(self._said("controller at "))

    def _said(self, words: str) -> str:
        for line in self._log.read_text().splitlines():
            if words in line:
                return line.partition(words)[2].split()[0]
        return ""

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=20)

    def policy(self, unit: str) -> Document:
        """What the unit's policy is."""
        found: Document = self.ask("GET", f"/v1/pools/{unit}/policy")
        return found

    def set(self, unit: str, policy: Document, *, ttl_s: float | None = None) -> None:
        """Change it as a person."""
        body = {"policy": policy, "reason": "a peak", "ttl_s": ttl_s}
        self.ask("PUT", f"/v1/pools/{unit}/policy", body)

    def roll_back(self, unit: str) -> None:
        """Undo the last change as a person."""
        self.ask("POST", f"/v1/pools/{unit}/policy/rollback", {"reason": "the peak is over"})

    def ask(self, method: str, path: str, body: Document | None = None) -> Any:
        """Ask the control API as a person."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {PERSON}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10, context=ANYBODY) as answer:
            return json.load(answer)


class Gateway:
    """A gateway that follows the controller at an address."""

    def __init__(
        self, cluster: Cluster, service: str, folder: Path, *, controller: str,
        port: int | None = None, mounts: Mapping[str, Path] = NO_MOUNTS,
    ) -> None:  # fmt: skip
        port = port or free_port()
        settings = _settings(cluster, service, "gateway", mounts)
        scheme = "https" if settings["gateway"].get("tls") else "http"
        self.url = f"{scheme}://127.0.0.1:{port}"
        settings["gateway"] |= {
            "host": "127.0.0.1", "port": port, "controller": controller,
            "fleet_file": str(folder / "fleet.json"),
        }  # fmt: skip
        words = ["-m", "dspark.gateway", "--config-json", json.dumps(settings)]
        with (folder / "gateway.log").open("wb") as out:
            self._process = subprocess.Popen([sys.executable, *words], stderr=out)
        cluster.wait("a gateway", self._answers, patience_s=START_S)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the gateway has ended"
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2, context=ANYBODY):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


class Engine:
    """One engine of a unit, as its Serve application would start it."""

    def __init__(
        self, cluster: Cluster, service: str, unit: str, *, controller: str,
        mounts: Mapping[str, Path] = NO_MOUNTS,
    ) -> None:  # fmt: skip
        written = cluster.the("ray.io/v1", "RayService", service)["spec"]["serveConfigV2"]
        serve = yaml.safe_load(_mounted(written, mounts))
        (given,) = [app["args"] for app in serve["applications"] if app["name"] == f"dspark-{unit}"]
        role, system = given["pool"], given["system"]
        self._process = ReplicaProcess(
            role, f"{unit}-0", system["pools"][role]["settings"],
            model=ModelSettings.model_validate(system["model"]), controller=controller,
            tls=EndpointSettings.model_validate(system["endpoint"]).tls,
        )  # fmt: skip

    def start(self) -> None:
        """Wait until it serves."""
        asyncio.run(self._process.ready())

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()


def _settings(
    cluster: Cluster, service: str, component: str, mounts: Mapping[str, Path]
) -> Document:
    config = cluster.the("v1", "ConfigMap", f"{service}-{component}")["data"]
    found: Document = json.loads(_mounted(config[f"{component}.json"], mounts))
    return found


def _mounted(written: str, mounts: Mapping[str, Path]) -> str:
    for folder, here in mounts.items():
        written = written.replace(f"{folder}/", f"{here}/")
    return written


def apply_policy(cluster: Cluster, name: str, spec: Document) -> None:
    """Create a VerificationPolicy."""
    policies = cluster.admin.resources.get(
        api_version="serving.dspark.dev/v1alpha1", kind="VerificationPolicy"
    )
    document = {"apiVersion": "serving.dspark.dev/v1alpha1", "kind": "VerificationPolicy"}
    policies.create(
        namespace=NAMESPACE, body={**document, "metadata": {"name": name}, "spec": spec}
    )


def policy_conditions(cluster: Cluster, name: str) -> dict[str, tuple[str, str]]:
    """Return a VerificationPolicy's conditions: {type: (status, reason)}."""
    policy = cluster.the("serving.dspark.dev/v1alpha1", "VerificationPolicy", name)
    conditions = (policy.get("status") or {}).get("conditions") or []
    return {c["type"]: (c["status"], c["reason"]) for c in conditions}
