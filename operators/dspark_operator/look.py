"""Looking at the cluster: every read of the API server, and no write.

Answers are parsed as they come: the client's own wrapping costs twice the time of all the rest.
"""

import json

from kubernetes.client import VersionApi
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

from dspark_operator import API_VERSION, names
from dspark_operator.document import Object, items, text
from dspark_operator.manifests.objects import Cluster
from dspark_operator.spec.parse import Service

OPTIONAL_KINDS = (
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("cert-manager.io/v1", "Certificate"),
)
PLAIN_KINDS = (
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("networking.k8s.io/v1", "Ingress"),
    ("batch/v1", "Job"),
)

Key = tuple[str, str]
"""(kind, name) of a child; all are in the service's namespace."""


def key_of(manifest: Object) -> Key:
    """Return the identity of a child."""
    return text(manifest, "kind"), text(manifest, "metadata", "name")


def ask_cluster(client: DynamicClient) -> Cluster:
    """Return what the cluster can take."""
    minor = "".join(filter(str.isdigit, VersionApi(client.client).get_code().minor))
    known = {api: _kinds_of(client, api) for api in dict(OPTIONAL_KINDS)}
    served = {f"{api}/{kind}" for api, kind in OPTIONAL_KINDS if kind in known[api]}
    return Cluster(minor=int(minor or 0), kinds=frozenset(served))


def _kinds_of(client: DynamicClient, api_version: str) -> set[str]:
    """Ask for the kinds of a group now; the client's own list is as old as the process."""
    try:
        answer = client.request("get", f"/apis/{api_version}", serialize=False)
    except NotFoundError:
        return set()
    return {text(entry, "kind") for entry in items(json.loads(answer.data), "resources")}


class Eyes:
    """Reads objects as plain documents."""

    def __init__(self, client: DynamicClient) -> None:
        self._client = client

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """Return one object, or None where it, or its whole kind, does not exist."""
        try:
            resource = self._client.resources.get(api_version=api_version, kind=kind)
            answer = resource.get(name=name, namespace=namespace, serialize=False)
        except (NotFoundError, ResourceNotFoundError):
            return None
        found: Object = json.loads(answer.data)
        return found

    def serves_ray(self) -> bool:
        """Say whether KubeRay's custom resources are installed."""
        return self._served("ray.io/v1", "RayService")

    def children(self, service: Service, cluster: Cluster) -> dict[Key, Object]:
        """Return all children but the RayService."""
        found: dict[Key, Object] = {}
        kinds = [*PLAIN_KINDS]
        kinds += [pair for pair in OPTIONAL_KINDS if "/".join(pair) in cluster.kinds]
        for api_version, kind in kinds:
            for child in self.labelled(api_version, kind, service):
                # Lists leave these out of their items.
                found[kind, text(child, "metadata", "name")] = {
                    **child, "apiVersion": api_version, "kind": kind,
                }  # fmt: skip
        return found

    def labelled(self, api_version: str, kind: str, service: Service) -> list[Object]:
        """Return the objects of a kind that carry the service's label."""
        resource = self._client.resources.get(api_version=api_version, kind=kind)
        answer = resource.get(
            namespace=service.namespace,
            label_selector=f"{names.SERVICE_LABEL}={service.name}",
            serialize=False,
        )
        return items(json.loads(answer.data), "items")

    def policies(self, namespace: str, service_name: str) -> list[Object]:
        """Return the VerificationPolicies that speak of a service."""
        kind = self._client.resources.get(api_version=API_VERSION, kind="VerificationPolicy")
        answer = kind.get(namespace=namespace, serialize=False)
        return [
            policy
            for policy in items(json.loads(answer.data), "items")
            if text(policy, "spec", "serviceName") == service_name
            and not text(policy, "metadata", "deletionTimestamp")
        ]

    def pods(self, service: Service) -> list[Object]:
        """Return the service's pods."""
        return self.labelled("v1", "Pod", service)

    def _served(self, api_version: str, kind: str) -> bool:
        try:
            self._client.resources.get(api_version=api_version, kind=kind)
        except ResourceNotFoundError:
            return False
        return True


def unwanted(live: dict[Key, Object], desired: list[Object], uid: str) -> list[Object]:
    """Return children of ours that the spec no longer asks for; volumes are never among them."""
    wanted = {key_of(manifest) for manifest in desired}
    prunable = {kind for _, kind in (*PLAIN_KINDS, *OPTIONAL_KINDS)} - {"PersistentVolumeClaim"}
    return [
        child
        for key, child in live.items()
        if key not in wanted
        and key[0] in prunable
        and any(text(owner, "uid") == uid for owner in items(child, "metadata", "ownerReferences"))
    ]


def of_component(pods: list[Object], *components: str) -> list[Object]:
    """Return the pods of some components."""
    return [
        pod for pod in pods if text(pod, "metadata", "labels", names.COMPONENT_LABEL) in components
    ]
