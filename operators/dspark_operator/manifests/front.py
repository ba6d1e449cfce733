"""Gateway and controller: ConfigMaps, Deployments, Services, the autoscaler and the volume."""

import json

from dspark_operator import names
from dspark_operator.control_key import digest_of, token_of
from dspark_operator.document import Json, Object, digest
from dspark_operator.manifests import pods
from dspark_operator.manifests.objects import Release, make
from dspark_operator.settings import controller_process, gateway_process
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pods import Placement, Resources

_GENTLE: Object = {
    "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
}  # fmt: skip


def gateway(service: Service, release: Release) -> list[Object]:
    """Return the gateway's objects."""
    spec = service.spec.gateway
    settings = gateway_process(service)
    image = service.spec.images.server or release.server_image
    inner = settings["gateway"]
    assert isinstance(inner, dict)
    stop_s = float(str(inner["stop_grace_s"])) + float(str(inner["drain_s"]))
    model = pods.weights(
        service, "target", service.spec.model.target, image=image, tokenizer_only=True
    )
    https = service.spec.has_https("gateway")
    ready: Object = {"httpGet": _http_get("/ready", "http", https=https), "periodSeconds": 5}
    live: Object = {
        "httpGet": _http_get("/health", "http", https=https),
        "periodSeconds": 10,
        "failureThreshold": 6,
    }
    container: Object = {
        "name": names.GATEWAY,
        "image": image,
        "command": ["python", "-m", "dspark.gateway"],
        "args": ["--config-json", f"{names.CONFIG_DIR}/gateway.json"],
        "ports": [pods.port("http", names.GATEWAY_PORT)],
        "startupProbe": {**live, "periodSeconds": 2, "failureThreshold": 150},
        "livenessProbe": live,
        "readinessProbe": ready,
    }
    deployment: Object = {"strategy": _GENTLE}
    if spec.autoscaling is None:
        deployment["replicas"] = spec.replicas
    made = [
        _config(service, names.GATEWAY, "gateway.json", settings),
        _deployment(
            service, names.GATEWAY, container, deployment,
            placement=spec, size=spec.resources, config=settings, stop_s=stop_s,
            extra=model
            + pods.certificates(service, names.GATEWAY)
            + pods.scratch("state", names.STATE_DIR, "64Mi"),
        ),
        make(
            service, "v1", "Service", names.GATEWAY,
            annotations={**spec.service.annotations},
            body={
                "spec": {
                    "type": spec.service.type,
                    "selector": names.selector(service, names.GATEWAY),
                    "ports": [_port("http", spec.service.port)],
                }
            },
        ),
    ]  # fmt: skip
    if spec.autoscaling is not None:
        made.append(_autoscaler(service))
    return made


def controller(service: Service, release: Release) -> list[Object]:
    """Return the controller's objects."""
    spec = service.spec.controller
    settings = controller_process(service, digest_of(token_of(release.control_key, service)))
    # A standby answers it too; only the one that leads listens for gRPC.
    probe: Object = {"httpGet": _http_get("/health", "api", https=service.spec.has_https("api"))}
    container: Object = {
        "name": names.CONTROLLER,
        "image": service.spec.images.server or release.server_image,
        "command": ["python", "-m", "dspark.controller"],
        "args": ["--config-json", f"{names.CONFIG_DIR}/controller.json"],
        "ports": [
            pods.port("grpc", names.CONTROLLER_PORT),
            pods.port("metrics", names.CONTROLLER_METRICS_PORT),
            pods.port("api", names.CONTROL_API_PORT),
        ],
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**probe, "periodSeconds": 5},
    }
    container["env"] = _redis_password(service)
    state, claims = _state(service)
    several = spec.store.type == "Redis"
    # A file belongs to one process at a time.
    strategy: Object = _GENTLE if several else {"type": "Recreate"}
    made = [
        _config(service, names.CONTROLLER, "controller.json", settings),
        *claims,
        _deployment(
            service, names.CONTROLLER, container,
            {"replicas": spec.replicas, "strategy": strategy},
            placement=spec, size=spec.resources, config=settings, stop_s=5.0,
            extra=state + pods.certificates(service, names.CONTROLLER),
        ),
        _controller_service(service, names.CONTROLLER),
    ]  # fmt: skip
    if several:
        made.append(_controller_service(service, names.CONTROLLERS))
    return made


def _controller_service(service: Service, component: str) -> Object:
    """Return a Service of the controller; that of several is found with all its addresses."""
    ports: list[Json] = [
        _port("grpc", names.CONTROLLER_PORT),
        _port("metrics", names.CONTROLLER_METRICS_PORT),
        _port("api", names.CONTROL_API_PORT),
    ]
    spec: Object = {"selector": names.selector(service, names.CONTROLLER), "ports": ports}
    if component == names.CONTROLLERS:
        spec |= {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "ports": [ports[0], ports[2]],
        }
    return make(service, "v1", "Service", component, body={"spec": spec})


def _redis_password(service: Service) -> list[Json]:
    store = service.spec.controller.store
    if store.type == "Embedded" or store.redis is None or not store.redis.password_secret_name:
        return []
    key: Object = {"name": store.redis.password_secret_name, "key": "password"}
    return [{"name": "DSPARK_REDIS_PASSWORD", "valueFrom": {"secretKeyRef": key}}]


def _state(service: Service) -> tuple[pods.Weights, list[Object]]:
    """Return where the controller writes, and the claims that this needs."""
    store = service.spec.controller.store
    if store.type == "Redis":
        return pods.Weights(), []
    if not store.embedded.persistent:
        return pods.scratch("state", names.STATE_DIR, str(store.embedded.size)), []
    volume = names.child(service, "controller-store")
    claim: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(store.embedded.size)}},
    }
    if store.embedded.storage_class_name:
        claim["storageClassName"] = store.embedded.storage_class_name
    made = make(
        service, "v1", "PersistentVolumeClaim", names.CONTROLLER, name=volume, body={"spec": claim}
    )
    state = pods.Weights(
        volumes=({"name": "state", "persistentVolumeClaim": {"claimName": volume}},),
        mounts=({"name": "state", "mountPath": names.STATE_DIR},),
    )
    return state, [made]


def _http_get(path: str, port: str, *, https: bool) -> Object:
    """Return a probe's request; the kubelet takes any certificate."""
    return {"path": path, "port": port, **({"scheme": "HTTPS"} if https else {})}


def _port(name: str, number: int) -> Object:
    """Return a Service's port to the container's port of the same name."""
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}


def _config(service: Service, component: str, file: str, settings: Object) -> Object:
    written = json.dumps(settings, indent=2, sort_keys=True)
    return make(service, "v1", "ConfigMap", component, body={"data": {file: written}})


def _deployment(
    service: Service,
    component: str,
    container: Object,
    deployment: Object,
    *,
    placement: Placement,
    size: Resources,
    config: Object,
    stop_s: float,
    extra: pods.Weights,
) -> Object:
    chosen = names.selector(service, component)
    files = extra + pods.scratch("tmp", "/tmp", "1Gi")
    environment = container.get("env", [])
    assert isinstance(environment, list)
    mounts: list[Json] = [
        {"name": "config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        *files.mounts,
    ]
    template: Object = {
        "metadata": {
            "labels": names.labels(service, component),
            # A process reads its file once: other settings are other pods.
            "annotations": {f"{names.DIGEST_ANNOTATION}-settings": digest(config)},
        },
        "spec": {
            "serviceAccountName": names.child(service, component),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pods.pod_security(),
            "terminationGracePeriodSeconds": round(stop_s) + 15,
            "affinity": pods.apart(chosen),
            **pods.placement(placement, chosen),
            **pods.images(service),
            **({"initContainers": [*files.fetchers]} if files.fetchers else {}),
            "containers": [
                {
                    **container,
                    "imagePullPolicy": service.spec.images.pull_policy,
                    # Why it ended is its last line.
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "env": [*pods.environment(service), *environment],
                    "resources": pods.resources(size),
                    "securityContext": pods.container_security(),
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": names.child(service, component)}},
                *files.volumes,
            ],
        },
    }
    return make(
        service, "apps/v1", "Deployment", component,
        body={
            "spec": {
                **deployment,
                "revisionHistoryLimit": 3,
                "selector": {"matchLabels": chosen},
                "template": template,
            }
        },
    )  # fmt: skip


def _autoscaler(service: Service) -> Object:
    scale = service.spec.gateway.autoscaling
    assert scale is not None
    cpu: Object = {
        "name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": scale.target_cpu_percent},
    }
    return make(
        service, "autoscaling/v2", "HorizontalPodAutoscaler", names.GATEWAY,
        body={
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": names.child(service, names.GATEWAY),
                },
                "minReplicas": scale.min_replicas,
                "maxReplicas": scale.max_replicas,
                "metrics": [{"type": "Resource", "resource": cpu}],
            }
        },
    )  # fmt: skip
