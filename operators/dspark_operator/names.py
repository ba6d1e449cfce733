"""Names, labels, ports and paths that child objects agree on."""

from dspark.config.tls import TlsSettings
from dspark_operator import GROUP
from dspark_operator.document import Object
from dspark_operator.spec.parse import Service

CONTROLLER_PORT = 9900
CONTROLLER_METRICS_PORT = 9901
CONTROL_API_PORT = 9902
GATEWAY_PORT = 8000

METRICS_PORT = "engine"
"""Begins the names of the engines' metrics ports: one for each that shares a pod."""

CONFIG_DIR = "/etc/dspark"
TLS_NAME = str(TlsSettings.model_fields["server_name"].default)
"""In the certificate of every process, whatever its address."""
TLS_DIR = "/etc/dspark-tls"
"""Beside the other folder, and not in it: that one is a read-only volume."""
STATE_DIR = "/var/lib/dspark"
MODELS_DIR = "/models"

FIELD_MANAGER = "dspark-operator"
FINALIZER = f"{GROUP}/drain"
DIGEST_ANNOTATION = f"{GROUP}/digest"
SERVICE_LABEL = f"{GROUP}/service"
COMPONENT_LABEL = "app.kubernetes.io/component"
ROLE_LABEL = f"{GROUP}/role"
POOL_LABEL = f"{GROUP}/pool"
GROUP_LABEL = f"{GROUP}/group"

GATEWAY = "gateway"
CONTROLLER = "controller"
CONTROLLERS = "controllers"
"""Of the Service by which each of several controllers is found."""
OPERATOR = "operator"
HEAD = "ray-head"
ENGINE = "engine"
PAIR_CHECK = "pair-check"


def child(service: Service, component: str) -> str:
    """Return the name of a child object."""
    return f"{service.name}-{component}"


def controller_address(service: Service) -> str:
    """Return where replicas and gateways find the controller that leads.

    Several share a name with all their addresses: only the one that leads listens, and a client
    tries them in turn.
    """
    return f"{_controller_host(service)}:{CONTROLLER_PORT}"


def control_url(service: Service) -> str:
    """Return the base URL of the control API inside the cluster."""
    scheme = "https" if service.spec.has_https("api") else "http"
    return f"{scheme}://{_controller_host(service)}:{CONTROL_API_PORT}"


def gateway_url(service: Service) -> str:
    """Return the base URL of the gateway inside the cluster."""
    port = service.spec.gateway.service.port
    scheme, usual = ("https", 443) if service.spec.has_https("gateway") else ("http", 80)
    suffix = "" if port == usual else f":{port}"
    return f"{scheme}://{child(service, GATEWAY)}.{service.namespace}.svc{suffix}"


def _controller_host(service: Service) -> str:
    several = service.spec.controller.store.type == "Redis"
    component = CONTROLLERS if several else CONTROLLER
    return f"{child(service, component)}.{service.namespace}.svc"


def certificate_secret(service: Service, component: str) -> str:
    """Return the Secret with a component's certificate and key; Ray's head has the engines'."""
    tls = service.spec.tls
    assert tls is not None
    return tls.secret_name or child(service, f"{ENGINE if component == HEAD else component}-tls")


def selector(service: Service, component: str | None = None) -> Object:
    """Return the labels that pick pods of this service; they never change."""
    chosen: Object = {SERVICE_LABEL: service.name}
    if component is not None:
        chosen[COMPONENT_LABEL] = component
    return chosen


def labels(service: Service, component: str) -> Object:
    """Return all labels of a child object or pod."""
    return {
        "app.kubernetes.io/name": "dspark",
        "app.kubernetes.io/instance": service.name,
        "app.kubernetes.io/part-of": "dspark",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        **selector(service, component),
    }
