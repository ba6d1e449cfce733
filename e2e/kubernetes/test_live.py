"""One service whose processes are real: two controllers on a Redis, a gateway, and engines.

What its conditions say is asked of the running controller, and a first token is a real one.
"""

import socket
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.controller.redis_server import RedisServer, a_redis

from dspark.controller.api.tokens import digest
from dspark.rpc.authority import Authority
from e2e.kubernetes.cluster import API, NAMESPACE, Cluster
from e2e.kubernetes.control_plane import free_port
from e2e.kubernetes.live import (
    ANYBODY,
    PERSON,
    Controller,
    Engine,
    Gateway,
    apply_policy,
    policy_conditions,
)
from e2e.kubernetes.specs import plain

Document = dict[str, Any]
NAME, VERIFIER, DRAFTER = "live", "verifier-cpu", "drafter-cpu"
PASSWORD = "word of a Redis"
LOAD_S = 180.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with a_redis(PASSWORD) as running:
        yield running


def _spec(redis: RedisServer) -> Document:
    spec = plain()
    spec["model"]["drafter"] = {"builtin": "demo/drafter"}
    spec["pools"].append({"name": "drafter", "role": "drafter", "groups": [{"name": "cpu"}]})
    address = f"127.0.0.1:{redis.port}"
    store = {"type": "Redis", "redis": {"address": address, "passwordSecretName": "redis"}}
    token = {"name": "ada", "role": "operator", "sha256": digest(PERSON)}
    settings = {"leaderLeaseSeconds": 2}
    spec["controller"] = {
        "replicas": 2, "store": store, "apiTokens": [token], "settings": settings,
    }  # fmt: skip
    return spec


def test_conditions_follow_real_processes_and_a_standby_takes_over(
    cluster: Cluster, redis: RedisServer, tmp_path: Path
) -> None:
    cluster.apply(NAME, _spec(redis))
    cluster.gateways.real[NAME] = "http://127.0.0.1:1"
    # Pods that the fake kubelet calls ready are not enough.
    cluster.wait_condition(NAME, "RouterReady", "True")
    cluster.wait_condition(NAME, "ProfileReady", "Unknown", "FleetUnknown")
    assert cluster.conditions(NAME)["Ready"] == ("False", "RoutesUnknown")

    port = free_port()
    with ExitStack() as running:
        first, second = (
            Controller(cluster, NAME, tmp_path / f"{name}.log", port=port, password=PASSWORD)
            for name in ("first", "second")
        )
        for controller in (first, second):
            running.callback(controller.stop)
        cluster.gateways.controllers[NAME] = [first.url, second.url]
        running.callback(cluster.gateways.controllers.clear)
        cluster.wait("one that leads", lambda: first.leads or second.leads)
        leader, standby = (first, second) if first.leads else (second, first)
        address = leader.address
        assert not standby.leads
        gateway = Gateway(cluster, NAME, tmp_path, controller=address)
        running.callback(gateway.stop)
        cluster.gateways.real[NAME] = gateway.url
        running.callback(cluster.gateways.real.clear)
        cluster.wait_condition(NAME, "ProfileReady", "False", "ProfileMissing")
        assert cluster.conditions(NAME)["Ready"][0] == "False"

        verifier = Engine(cluster, NAME, VERIFIER, controller=address)
        running.callback(verifier.kill)
        verifier.start()
        cluster.wait_condition(NAME, "Ready", "True", "FirstTokenSeen", patience_s=LOAD_S)
        cluster.wait_condition(NAME, "ProfileReady", "True", "Measured")
        cluster.wait_condition(NAME, "SpeculationActive", "False", "NoDrafterReady")

        drafter = Engine(cluster, NAME, DRAFTER, controller=address)
        running.callback(drafter.kill)
        drafter.start()
        cluster.wait_condition(NAME, "SpeculationActive", "True", "Drafting", patience_s=LOAD_S)
        cluster.wait_condition(NAME, "BudgetPublished", "True", "Published")

        apply_policy(cluster, "off", {"serviceName": NAME, "mode": "Off"})
        cluster.wait_condition(NAME, "SpeculationActive", "False", "BudgetOff")
        cluster.wait("the policy in force", lambda: (
            policy_conditions(cluster, "off").get("InForce") == ("True", "InForce")
        ))  # fmt: skip
        (before,) = leader.policy(VERIFIER)["layers"]

        # The standby goes on with what the Redis holds; nothing is set or served anew.
        leader.kill()
        cluster.wait("the standby to lead", lambda: standby.leads)
        cluster.wait("the policy of the manifest", lambda: (
            standby.policy(VERIFIER)["layers"] == [before]
        ))  # fmt: skip
        cluster.wait_condition(NAME, "SpeculationActive", "False", "BudgetOff")
        assert cluster.conditions(NAME)["Ready"][0] == "True", cluster.message(NAME, "Ready")
        policies = cluster.admin.resources.get(api_version=API, kind="VerificationPolicy")
        policies.delete(name="off", namespace=NAMESPACE)
        cluster.wait_condition(NAME, "SpeculationActive", "True", "Drafting")
        assert standby.policy(VERIFIER)["layers"] == []

        drafter.kill()
        cluster.wait_condition(NAME, "SpeculationActive", "False", "NoDrafterReady")
        assert cluster.conditions(NAME)["Ready"][0] == "True", cluster.message(NAME, "Ready")
    cluster.delete(NAME)
    cluster.wait_gone(NAME)


class Certificates:
    """What is in the service's ConfigMap and Secret, and so in the folder of every pod."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self.folder = folder

    def write(self, authorities: Sequence[Authority], signer: Authority) -> None:
        """Replace both; the kubelet follows."""
        now = datetime.now(UTC)
        pair = signer.sign(["dspark.internal"], days=1.0, now=now)
        roots = b"".join(authority.pair.certificate for authority in authorities)
        files = {"ca.crt": roots, "tls.crt": pair.certificate, "tls.key": pair.key}
        self._put("ConfigMap", "authority", {"data": {"ca.crt": roots.decode()}})
        secret = {key: b64encode(files[key]).decode() for key in ("tls.crt", "tls.key")}
        self._put("Secret", "certificate", {"type": "kubernetes.io/tls", "data": secret})
        for name, content in files.items():
            fresh = self.folder / f"{name}.new"
            fresh.write_bytes(content)
            fresh.replace(self.folder / name)

    def _put(self, kind: str, name: str, body: Document) -> None:
        resource = self._cluster.admin.resources.get(api_version="v1", kind=kind)
        document = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **body}
        if self._cluster.get("v1", kind, name) is None:
            resource.create(namespace=NAMESPACE, body=document)
        else:
            resource.replace(namespace=NAMESPACE, body=document)


def _shown_by(url: str) -> str:
    """The authority that signed what a server shows."""
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        ANYBODY.wrap_socket(plain, server_hostname="any") as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).issuer.rfc4514_string()


def _generations(cluster: Cluster) -> list[int]:
    """Of everything whose change would be other pods."""
    found = [("apps/v1", "Deployment", f"sealed-{name}") for name in ("gateway", "controller")]
    return [
        cluster.the(*one)["metadata"]["generation"]
        for one in (*found, ("ray.io/v1", "RayService", "sealed"))
    ]


def test_a_service_with_tls_is_ready_and_its_certificates_are_replaced_while_it_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    old, new = (Authority.new(name, days=1.0, now=datetime.now(UTC)) for name in ("old", "new"))
    mounted = tmp_path / "tls"
    mounted.mkdir()
    certificates, mounts = Certificates(cluster, mounted), {"/etc/dspark-tls": mounted}
    spec = plain()
    spec["tls"] = {"authorityConfigMapName": "authority", "secretName": "certificate"}
    gateway_port, api_port = free_port(), free_port()
    cluster.kill_operators()
    cluster.start_operator(
        gateway_url=f"https://127.0.0.1:{gateway_port}",
        control_url=f"https://127.0.0.1:{api_port}",
    )
    with ExitStack() as running:
        running.callback(cluster.start_operator)
        running.callback(cluster.kill_operators)
        cluster.apply("sealed", spec)
        cluster.wait_condition("sealed", "Stalled", "True", "AuthorityMissing")
        certificates.write([old], old)
        cluster.wait_condition("sealed", "RouterReady", "True")
        controller = Controller(cluster, "sealed", tmp_path / "controller.log",
                                api_port=api_port, mounts=mounts)  # fmt: skip
        running.callback(controller.stop)
        address = controller.address
        gateway = Gateway(cluster, "sealed", tmp_path, controller=address, port=gateway_port,
                          mounts=mounts)  # fmt: skip
        running.callback(gateway.stop)
        verifier = Engine(cluster, "sealed", VERIFIER, controller=address, mounts=mounts)
        running.callback(verifier.kill)
        verifier.start()
        cluster.wait_condition("sealed", "Ready", "True", "FirstTokenSeen", patience_s=LOAD_S)
        cluster.wait_condition("sealed", "ProfileReady", "True", "Measured")
        urls = (gateway.url, controller.url)
        assert [_shown_by(url) for url in urls] == ["CN=old", "CN=old"]

        # Both authorities, then the new certificate, then the new authority alone.
        rolled = _generations(cluster)
        for authorities, signer in (([old, new], old), ([old, new], new), ([new], new)):
            certificates.write(authorities, signer)
            wanted = "CN=new" if signer is new else "CN=old"
            cluster.wait(
                "the certificate", lambda w=wanted: {_shown_by(url) for url in urls} == {w}
            )
            cluster.apply("sealed", {**spec, "description": f"{len(authorities)} {wanted}"})
            # Another generation: a first token is asked for again.
            cluster.wait_condition("sealed", "Ready", "True", "FirstTokenSeen")
            cluster.wait_condition("sealed", "ProfileReady", "True", "Measured")
        assert _generations(cluster) == rolled, "nothing is rolled for it"

        cluster.apply("sealed", plain())
        cluster.wait_condition("sealed", "Stalled", "True", "NewClusterNeeded")
        cluster.wait_condition("sealed", "Ready", "True")
        cluster.delete("sealed")
        cluster.wait_gone("sealed")
