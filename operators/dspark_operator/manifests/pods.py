"""What every pod has: who it runs as, where it goes, and how weights get into it."""

from dataclasses import dataclass

from dspark.config.telemetry import TelemetrySettings
from dspark_operator import names
from dspark_operator.document import Json, Object
from dspark_operator.spec.model import ModelSource
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pods import Placement, Resources

USER = 10001
TLS_VOLUME = "tls"
"""In the pods of every process that speaks TLS, and in no others."""

_TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How weights come into a pod: volumes, their mounts, and containers that fill them."""

    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    fetchers: tuple[Object, ...] = ()

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(
            volumes=self.volumes + other.volumes,
            mounts=self.mounts + other.mounts,
            fetchers=self.fetchers + other.fetchers,
        )


def pod_security() -> Object:
    """Return the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Object:
    """Return the security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def port(name: str, number: int) -> Object:
    """Return a container's port.

    The protocol is written out: it is part of the port's identity in a server-side apply, and not
    every version fills it in first.
    """
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def resources(given: Resources) -> Object:
    """Return requests and limits as Kubernetes writes them: strings."""
    made: Object = {}
    if given.requests:
        made["requests"] = {name: str(value) for name, value in given.requests.items()}
    if given.limits:
        made["limits"] = {name: str(value) for name, value in given.limits.items()}
    return made


def placement(given: Placement, spread_over: Object) -> Object:
    """Return the part of a pod spec that says where the pod goes.

    Args:
        given: What the user asked for.
        spread_over: Labels of the pods that are spread against each other.
    """
    made: Object = {}
    if given.node_selector:
        made["nodeSelector"] = {**given.node_selector}
    if given.tolerations:
        made["tolerations"] = [
            toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
            for toleration in given.tolerations
        ]
    if given.topology_spread:
        made["topologySpreadConstraints"] = [
            {
                **spread.model_dump(mode="json", by_alias=True),
                "labelSelector": {"matchLabels": spread_over},
            }
            for spread in given.topology_spread
        ]
    if given.priority_class_name:
        made["priorityClassName"] = given.priority_class_name
    if given.runtime_class_name:
        made["runtimeClassName"] = given.runtime_class_name
    return made


def apart(spread_over: Object) -> Object:
    """Return an affinity that prefers different nodes for these pods."""
    term: Object = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": spread_over},
    }
    preferred: list[Json] = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def environment(service: Service) -> list[Json]:
    """Return the variables of every process of ours: where it may write, and what it tells.

    Nothing of telemetry stands here where nothing is asked for: another variable is another pod.
    """
    told: dict[str, str] = {"HOME": "/tmp"}
    wanted = service.spec.observability.telemetry()
    if wanted != TelemetrySettings():
        told |= wanted.environment()
    if wanted.otlp_endpoint is not None:
        told["OTEL_SERVICE_NAME"] = service.name
    return [{"name": name, "value": value} for name, value in told.items()]


def images(service: Service) -> Object:
    """Return the part of a pod spec that says how images are pulled."""
    secrets = service.spec.images.pull_secret_names
    return {"imagePullSecrets": [{"name": name} for name in secrets]} if secrets else {}


def scratch(name: str, path: str, size: str | None = None, *, memory: bool = False) -> Weights:
    """Return a writable folder that lives as long as the pod."""
    folder: Object = {}
    if size is not None:
        folder["sizeLimit"] = size
    if memory:
        folder["medium"] = "Memory"
    return Weights(
        volumes=({"name": name, "emptyDir": folder},),
        mounts=({"name": name, "mountPath": path},),
    )


def certificates(service: Service, component: str) -> Weights:
    """Return how a component's certificate, key and authority come into its pods.

    One projected volume: what is replaced is replaced in one step, and the processes read it again.
    """
    tls = service.spec.tls
    if tls is None:
        return Weights()
    own: Object = {
        "name": names.certificate_secret(service, component),
        "items": [{"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"}],
    }
    authority: Object = {
        "name": tls.authority_config_map_name,
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }
    sources: list[Json] = [{"secret": own}, {"configMap": authority}]
    return Weights(
        volumes=({"name": TLS_VOLUME, "projected": {"defaultMode": 0o440, "sources": sources}},),
        mounts=({"name": TLS_VOLUME, "mountPath": names.TLS_DIR, "readOnly": True},),
    )


def weights(
    service: Service, kind: str, source: ModelSource, *, image: str, tokenizer_only: bool = False
) -> Weights:
    """Return how one model's files come into a pod, at ``/models/KIND``.

    Args:
        service: Whose image settings count.
        kind: ``target`` or ``drafter``.
        source: Where the files are.
        image: Our own image, which can download from the hub.
        tokenizer_only: Leave the weights themselves out where the source allows.
    """
    folder = f"{names.MODELS_DIR}/{kind}"
    volume = f"model-{kind}"
    if source.builtin is not None:
        return Weights()
    if source.pvc is not None:
        mount: Object = {"name": volume, "mountPath": folder, "readOnly": True}
        if source.pvc.path:
            mount["subPath"] = source.pvc.path
        claim: Object = {"claimName": source.pvc.claim_name, "readOnly": True}
        return Weights(volumes=({"name": volume, "persistentVolumeClaim": claim},), mounts=(mount,))
    writable = scratch(volume, folder)
    fetcher: Object = {
        "name": f"fetch-{kind}",
        "imagePullPolicy": service.spec.images.pull_policy,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"memory": "2Gi"},
        },
        "volumeMounts": [*writable.mounts, {"name": "tmp", "mountPath": "/tmp"}],
    }
    if source.hub is not None:
        hub = source.hub
        command: list[Json] = ["hf", "download", hub.id, "--revision", hub.revision]
        command += ["--local-dir", folder]
        for pattern in _TOKENIZER_FILES if tokenizer_only else ():
            command += ["--include", pattern]
        environment: list[Json] = [{"name": "HOME", "value": "/tmp"}]
        if hub.token_secret_name:
            reference: Object = {"name": hub.token_secret_name, "key": "token"}
            environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
        fetcher |= {"image": image, "command": command, "env": environment}
    else:
        store = source.object_store
        assert store is not None, "one source is set"
        fetcher |= {
            "image": store.image,
            "command": [*store.command],
            "env": [
                {"name": "SOURCE", "value": store.uri},
                {"name": "DESTINATION", "value": folder},
                {"name": "HOME", "value": "/tmp"},
            ],
        }
        if store.env_secret_name:
            fetcher["envFrom"] = [{"secretRef": {"name": store.env_secret_name}}]
    return Weights(volumes=writable.volumes, mounts=writable.mounts, fetchers=(fetcher,))
