"""Certificates of cert-manager: one for each role, where the spec names an issuer."""

from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.manifests.objects import make
from dspark_operator.spec.parse import Service

API_VERSION = "cert-manager.io/v1"


def certificates(service: Service) -> list[Object]:
    """Return what cert-manager is asked for; empty where Secrets are given, or nothing is."""
    tls = service.spec.tls
    if tls is None or tls.issuer_ref is None:
        return []
    return [
        make(
            service, API_VERSION, "Certificate", component, name=f"{service.name}-{component}-tls",
            body={
                "spec": {
                    "secretName": names.certificate_secret(service, component),
                    "dnsNames": [names.TLS_NAME, *_hosts(service, services)],
                    # Every process is both towards the others.
                    "usages": ["digital signature", "server auth", "client auth"],
                    "duration": f"{tls.duration_hours}h0m0s",
                    "renewBefore": f"{tls.renew_before_hours}h0m0s",
                    "privateKey": {
                        "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always",
                    },
                    "issuerRef": tls.issuer_ref.model_dump(mode="json", by_alias=True),
                }
            },
        )
        for component, services in (
            (names.GATEWAY, (names.GATEWAY,)),
            (names.CONTROLLER, (names.CONTROLLER, names.CONTROLLERS)),
            (names.ENGINE, ()),
        )
    ]  # fmt: skip


def _hosts(service: Service, services: tuple[str, ...]) -> list[Json]:
    """Return the names of Services, for clients that look at the host of a URL.

    And localhost, where people look in through ``kubectl port-forward``.
    """
    if not services:
        return []
    bare = [names.child(service, component) for component in services]
    places = ("", f".{service.namespace}", f".{service.namespace}.svc")
    return [*(f"{name}{place}" for name in bare for place in places), "localhost"]
