"""The frame of a child object: names, labels, owner, and a digest of what was asked for."""

from dataclasses import dataclass, field

from dspark_operator import names
from dspark_operator.document import Object, digest, part
from dspark_operator.spec.parse import Service, owner_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What the cluster can take.

    Attributes:
        minor: Minor version of the API server, as 32 of 1.32.
        kinds: ``group/version/Kind`` of optional kinds that are served.
    """

    minor: int = 32
    kinds: frozenset[str] = frozenset(
        {
            "policy/v1/PodDisruptionBudget",
            "autoscaling/v2/HorizontalPodAutoscaler",
        }
    )

    def serves(self, manifest: Object) -> bool:
        """Say whether a manifest of an optional kind can be applied."""
        return f"{manifest['apiVersion']}/{manifest['kind']}" in self.kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What the operator was installed with.

    Attributes:
        engine_image: Image of the engines where a spec names none.
        server_image: Image of gateway and controller where a spec names none.
        namespace: Where the operator runs, which asks every gateway for its fleet.
        control_key: Secret from which the operator's token for each control API is derived.
    """

    engine_image: str
    server_image: str
    namespace: str = ""
    control_key: str = field(repr=False)


def make(
    service: Service,
    api_version: str,
    kind: str,
    component: str,
    *,
    name: str | None = None,
    body: Object,
    annotations: Object | None = None,
    labels: Object | None = None,
) -> Object:
    """Return an object owned by the service, with the digest of its own content.

    Args:
        service: The owner.
        api_version: Of the object.
        kind: Of the object.
        component: Which part of the service it belongs to.
        name: Its name; absent: made of service and component.
        body: Everything beside apiVersion, kind and metadata.
        annotations: Further annotations.
        labels: Further labels.
    """
    metadata: Object = {
        "name": name or names.child(service, component),
        "namespace": service.namespace,
        "labels": {**names.labels(service, component), **(labels or {})},
        "ownerReferences": [owner_reference(service)],
        "annotations": {**(annotations or {})},
    }
    return stamped({"apiVersion": api_version, "kind": kind, "metadata": metadata, **body})


def stamped(manifest: Object) -> Object:
    """Return the manifest with the digest of everything else in it."""
    metadata = dict(part(manifest, "metadata"))
    annotations = dict(part(metadata, "annotations"))
    annotations.pop(names.DIGEST_ANNOTATION, None)
    metadata["annotations"] = annotations
    bare: Object = {**manifest, "metadata": metadata}
    noted: Object = {**annotations, names.DIGEST_ANNOTATION: digest(bare)}
    return {**manifest, "metadata": {**metadata, "annotations": noted}}
