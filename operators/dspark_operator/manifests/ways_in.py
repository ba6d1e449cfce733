"""Ways in from outside the cluster: an Ingress, or an HTTPRoute of the Gateway API."""

from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.manifests.objects import make
from dspark_operator.spec.parse import Service


def ways_in(service: Service) -> list[Object]:
    """Return what the spec asks for; both lead to the gateway's Service."""
    return [*_ingress(service), *_http_route(service)]


def _ingress(service: Service) -> list[Object]:
    given = service.spec.gateway.ingress
    if given is None:
        return []
    backend: Object = {
        "service": {"name": names.child(service, names.GATEWAY), "port": {"name": "http"}}
    }
    path: Object = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec: Object = {"rules": [{"host": given.host, "http": {"paths": [path]}}]}
    if given.class_name:
        spec["ingressClassName"] = given.class_name
    if given.tls_secret_name:
        spec["tls"] = [{"hosts": [given.host], "secretName": given.tls_secret_name}]
    return [
        make(
            service, "networking.k8s.io/v1", "Ingress", names.GATEWAY,
            annotations={**given.annotations}, body={"spec": spec},
        )
    ]  # fmt: skip


def _http_route(service: Service) -> list[Object]:
    given = service.spec.gateway.http_route
    if given is None:
        return []
    parents: list[Json] = [
        parent.model_dump(mode="json", by_alias=True, exclude_none=True)
        for parent in given.parent_refs
    ]
    backend: Object = {
        "name": names.child(service, names.GATEWAY), "port": service.spec.gateway.service.port,
    }  # fmt: skip
    spec: Object = {"parentRefs": parents, "rules": [{"backendRefs": [backend]}]}
    if given.hostnames:
        spec["hostnames"] = [*given.hostnames]
    api_version = "gateway.networking.k8s.io/v1"
    return [make(service, api_version, "HTTPRoute", names.GATEWAY, body={"spec": spec})]
