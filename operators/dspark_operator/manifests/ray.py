"""The RayService: a head without engines, one worker group for each unit, one application each."""

import yaml

from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.manifests import pods
from dspark_operator.manifests.objects import Release, make
from dspark_operator.settings import (
    RAY_SETTINGS,
    application_name,
    drain_s,
    engine_system,
    ray_resource,
    tls_settings,
)
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pools import Group, Pool

API_VERSION = "ray.io/v1"

_RAYLET_HEALTH = (
    "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
)


def ray_service(service: Service, release: Release) -> Object:
    """Return the RayService as the spec alone would have it (see ``rollout`` for the rest)."""
    spec = service.spec
    units = spec.units()
    cluster: Object = {
        "rayVersion": spec.ray.version,
        "enableInTreeAutoscaling": True,
        "authOptions": {"mode": "token"},
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 120,
            "securityContext": pods.container_security(),
            "resources": {
                "requests": {"cpu": "200m", "memory": "512Mi"},
                "limits": {"cpu": "500m", "memory": "512Mi"},
            },
        },
        "headGroupSpec": _head(service, release),
        "workerGroupSpecs": [_workers(service, release, pool, group) for pool, group in units],
    }
    tolerance = spec.ray.fault_tolerance
    if tolerance is not None:
        options: Object = {
            "redisAddress": tolerance.redis_address,
            "externalStorageNamespace": f"{service.namespace}-{service.name}",
        }
        if tolerance.password_secret_name:
            key: Object = {"name": tolerance.password_secret_name, "key": "password"}
            options["redisPassword"] = {"valueFrom": {"secretKeyRef": key}}
        cluster["gcsFaultToleranceOptions"] = options
    longest_s = max(drain_s(service, pool, group) for pool, group in units)
    return make(
        service, API_VERSION, "RayService", names.ENGINE, name=service.name,
        body={
            "spec": {
                "serveConfigV2": serve_config(service),
                "rayClusterConfig": cluster,
                "upgradeStrategy": {"type": "None"},
                "rayClusterDeletionDelaySeconds": round(longest_s) + 60,
                # Traffic goes past Ray; the head never serves it.
                "excludeHeadPodFromServeSvc": True,
            }
        },
    )  # fmt: skip


def serve_config(service: Service) -> str:
    """Return ``serveConfigV2``: one application for each unit, applied in place by KubeRay."""
    applications = [_application(service, pool, group) for pool, group in service.spec.units()]
    config: Object = {"proxy_location": "Disabled", "applications": [*applications]}
    return yaml.safe_dump(config, sort_keys=False, width=100)


def _application(service: Service, pool: Pool, group: Group) -> Object:
    unit = pool.unit(group)
    autoscaling: Object = {
        # No initial_replicas: Ray Serve would go back to it with every edit of the configuration,
        # through a count that harms streams.  The controller wishes for them instead.
        "min_replicas": group.replicas.min,
        "max_replicas": group.replicas.max,
        "upscale_delay_s": RAY_SETTINGS["upscale_delay_s"],
        "downscale_delay_s": RAY_SETTINGS["downscale_delay_s"],
        "downscale_to_zero_delay_s": RAY_SETTINGS["downscale_delay_s"],
        "policy": {
            "policy_function": "dspark.app:FollowPlan",
            "policy_kwargs": {
                "controller": names.controller_address(service),
                "pool": unit,
                **tls_settings(service),
            },
        },
    }
    return {
        "name": application_name(unit),
        "route_prefix": None,
        "import_path": "dspark.app:build_pool",
        "args": {"pool": pool.role, "system": engine_system(service, pool, group)},
        # Counts stand here and not in the arguments: a changed argument restarts every replica.
        "deployments": [{"name": pool.role, "autoscaling_config": autoscaling}],
    }


def _head(service: Service, release: Release) -> Object:
    head = service.spec.ray.head
    template = _template(
        service, _image(service, release), names.HEAD, labels={},
        size=pods.resources(head.resources),
        place=pods.placement(head, names.selector(service, names.HEAD)),
        weights=pods.Weights(), stop_s=30.0, ports=_HEAD_PORTS, probes={},
    )  # fmt: skip
    return {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
        "template": template,
    }


_HEAD_PORTS: tuple[tuple[str, int], ...] = (
    ("gcs-server", 6379), ("dashboard", 8265), ("client", 10001), ("metrics", 8080),
)  # fmt: skip


def _workers(service: Service, release: Release, pool: Pool, group: Group) -> Object:
    unit = pool.unit(group)
    # Weights are fetched by what our own image has, whatever image runs them.
    image = _image(service, release)
    model = service.spec.model
    weights = pods.weights(service, "target", model.target, image=image)
    if model.drafter is not None:
        weights += pods.weights(service, "drafter", model.drafter, image=image)
    own: Object = {
        names.POOL_LABEL: pool.name,
        names.GROUP_LABEL: group.name,
        names.ROLE_LABEL: pool.role,
    }
    # KubeRay's own readiness probe asks Serve's HTTP proxy, which we do not run.
    health: Object = {"exec": {"command": ["bash", "-c", _RAYLET_HEALTH]}, "timeoutSeconds": 5}
    spread: Object = {**names.selector(service, names.ENGINE), **own}
    template = _template(
        service, pool.image or image, names.ENGINE, labels=own,
        size=pods.resources(group.resources), place=pods.placement(group, spread), weights=weights,
        stop_s=drain_s(service, pool, group) + float(str(RAY_SETTINGS["stop_margin_s"])),
        ports=(("metrics", 8080), *_metrics_ports(service, group)),
        probes={
            "livenessProbe": {**health, "periodSeconds": 10, "failureThreshold": 12},
            "readinessProbe": {**health, "periodSeconds": 5, "failureThreshold": 3},
        },
    )  # fmt: skip
    advertised: Object = {
        "CPU": str(max(int(group.resources.cpus()), 1)),
        ray_resource(unit): str(group.replicas_per_pod),
    }
    if group.resources.gpus():
        advertised["GPU"] = str(group.resources.gpus())
    return {
        "groupName": unit,
        "replicas": group.pods(group.replicas.start),
        "minReplicas": group.pods(group.replicas.min),
        "maxReplicas": group.pods(group.replicas.max),
        "numOfHosts": 1,
        "rayStartParams": {},
        "resources": advertised,
        "template": template,
    }


def _image(service: Service, release: Release) -> str:
    return service.spec.images.engine or release.engine_image


def _metrics_ports(service: Service, group: Group) -> list[tuple[str, int]]:
    """Return the ports on which the engines of one pod tell their metrics, by name."""
    first = service.spec.network.metrics_port_min
    return [
        (f"{names.METRICS_PORT}-{number}", first + number)
        for number in range(group.replicas_per_pod)
    ]


def _template(
    service: Service,
    image: str,
    component: str,
    *,
    labels: Object,
    size: Object,
    place: Object,
    weights: pods.Weights,
    stop_s: float,
    ports: tuple[tuple[str, int], ...],
    probes: Object,
) -> Object:
    shared = str(service.spec.ray.shared_memory)
    files = (
        weights
        # Ray's head, too: what asks for the wanted replicas runs there.
        + pods.certificates(service, component)
        + pods.scratch("tmp", "/tmp")
        + pods.scratch("shm", "/dev/shm", shared, memory=True)
    )
    environment: list[Json] = [
        *pods.environment(service),
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
    ]
    return {
        "metadata": {"labels": {**names.labels(service, component), **labels}},
        "spec": {
            # KubeRay gives the head's account the right to scale; workers get no token.
            "serviceAccountName": names.child(service, component),
            "automountServiceAccountToken": component == names.HEAD,
            "enableServiceLinks": False,
            "securityContext": pods.pod_security(),
            "terminationGracePeriodSeconds": round(stop_s) + 15,
            **place,
            **pods.images(service),
            **({"initContainers": [*files.fetchers]} if files.fetchers else {}),
            "containers": [
                {
                    "name": component,
                    "image": image,
                    "imagePullPolicy": service.spec.images.pull_policy,
                    "env": environment,
                    "ports": [pods.port(name, number) for name, number in ports],
                    "resources": size,
                    "securityContext": pods.container_security(),
                    "volumeMounts": [*files.mounts],
                    **probes,
                }
            ],
            "volumes": [*files.volumes],
        },
    }
