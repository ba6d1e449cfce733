"""Survey: the reads of a cluster that ``prerequisites`` judges; nothing is written."""

from kubernetes.client import VersionApi
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ForbiddenError, ResourceNotFoundError

from dspark_operator.document import Object, items, text
from dspark_operator.look import OPTIONAL_KINDS
from dspark_operator.prerequisites import OWN, RAY_SERVICE, Facts


def survey(client: DynamicClient, namespace: str) -> Facts:
    """Look at a cluster with whatever rights the client has.

    Args:
        client: Of the API server.
        namespace: Where claims are looked for.

    Raises:
        kubernetes.client.ApiException: The API server refuses everything.
        urllib3.exceptions.HTTPError: It cannot be reached.
    """
    minor = "".join(filter(str.isdigit, VersionApi(client.client).get_code().minor))
    names = [f"{api}/{kind}" for api, kind in OPTIONAL_KINDS] + [OWN, RAY_SERVICE]
    claims = _listed(client, "v1", "PersistentVolumeClaim", namespace)
    config_maps = _listed(client, "v1", "ConfigMap", namespace)
    return Facts(
        minor=int(minor or 0),
        served=frozenset(name for name in names if _served(client, *name.rsplit("/", 1))),
        nodes=_listed(client, "v1", "Node", None),
        storage_classes=_listed(client, "storage.k8s.io/v1", "StorageClass", None),
        claims=(
            None if claims is None else {text(claim, "metadata", "name"): claim for claim in claims}
        ),
        authorities=None if config_maps is None else _authorities(config_maps),
    )


def _authorities(config_maps: list[Object]) -> frozenset[str]:
    return frozenset(text(c, "metadata", "name") for c in config_maps if text(c, "data", "ca.crt"))


def _served(client: DynamicClient, api_version: str, kind: str) -> bool:
    try:
        client.resources.get(api_version=api_version, kind=kind)
    except ResourceNotFoundError:
        return False
    return True


def _listed(
    client: DynamicClient, api_version: str, kind: str, namespace: str | None
) -> list[Object] | None:
    resource = client.resources.get(api_version=api_version, kind=kind)
    try:
        answer = resource.get(**({"namespace": namespace} if namespace else {}))
    except ForbiddenError:
        return None
    return items(answer.to_dict(), "items")
