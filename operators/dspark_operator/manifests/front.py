"""Gateway and controller: ConfigMaps, Deployments, Services, the autoscaler and the volume."""

import json

from dspark_operator import names
from dspark_operator.document import Json, Object, digest
from dspark_operator.manifests import pods
from dspark_operator.manifests.objects import Cluster, Release, make
from dspark_operator.settings import controller_process, gateway_process
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pods import Placement, Resources

_GRPC_PROBES_SINCE = 24


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
    ready: Object = {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5}
    live: Object = {
        "httpGet": {"path": "/health", "port": "http"},
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
    deployment: Object = {
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    }
    if spec.autoscaling is None:
        deployment["replicas"] = spec.replicas
    made = [
        _config(service, names.GATEWAY, "gateway.json", settings),
        _deployment(
            service, names.GATEWAY, container, deployment,
            placement=spec, size=spec.resources, config=settings, stop_s=stop_s,
            extra=model + pods.scratch("state", names.STATE_DIR, "64Mi"),
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


def controller(service: Service, release: Release, cluster: Cluster) -> list[Object]:
    """Return the controller's objects."""
    spec = service.spec.controller
    settings = controller_process(service)
    probe: Object = (
        {"grpc": {"port": names.CONTROLLER_PORT}}
        if cluster.minor >= _GRPC_PROBES_SINCE
        else {"tcpSocket": {"port": "grpc"}}
    )
    container: Object = {
        "name": names.CONTROLLER,
        "image": service.spec.images.server or release.server_image,
        "command": ["python", "-m", "dspark.controller"],
        "args": ["--config-json", f"{names.CONFIG_DIR}/controller.json"],
        "ports": [
            pods.port("grpc", names.CONTROLLER_PORT),
            pods.port("metrics", names.CONTROLLER_METRICS_PORT),
        ],
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**probe, "periodSeconds": 5},
    }
    store = spec.store.embedded
    volume = names.child(service, "controller-store")
    made = [_config(service, names.CONTROLLER, "controller.json", settings)]
    if store.persistent:
        claim: Object = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": str(store.size)}},
        }
        if store.storage_class_name:
            claim["storageClassName"] = store.storage_class_name
        made.append(
            make(
                service,
                "v1",
                "PersistentVolumeClaim",
                names.CONTROLLER,
                name=volume,
                body={"spec": claim},
            )
        )
        state = pods.Weights(
            volumes=({"name": "state", "persistentVolumeClaim": {"claimName": volume}},),
            mounts=({"name": "state", "mountPath": names.STATE_DIR},),
        )
    else:
        state = pods.scratch("state", names.STATE_DIR, str(store.size))
    made += [
        _deployment(
            service, names.CONTROLLER, container,
            # The store belongs to one process at a time.
            {"replicas": 1, "strategy": {"type": "Recreate"}},
            placement=spec, size=spec.resources, config=settings, stop_s=5.0, extra=state,
        ),
        make(
            service, "v1", "Service", names.CONTROLLER,
            body={
                "spec": {
                    "selector": names.selector(service, names.CONTROLLER),
                    "ports": [
                        _port("grpc", names.CONTROLLER_PORT),
                        _port("metrics", names.CONTROLLER_METRICS_PORT),
                    ],
                }
            },
        ),
    ]  # fmt: skip
    return made


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
                    "env": [{"name": "HOME", "value": "/tmp"}],
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
