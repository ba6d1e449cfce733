"""Trouble: why something does not come up, in the words of scheduler, kubelet and Ray Serve."""

from dspark_operator import names
from dspark_operator.document import Object, items, number, part, text
from dspark_operator.settings import application_name

_FAILING = (
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
    "CreateContainerError", "CrashLoopBackOff", "RunContainerError",
)  # fmt: skip
"""What a container waits for when somebody has to do something about it."""

_LONGEST = 300


def unschedulable(pods: list[Object]) -> dict[str, str]:
    """Return by unit what the scheduler says of pods that find no node."""
    told: dict[str, str] = {}
    for pod in pods:
        labels = pod.get("metadata", {})
        pool = text(labels, "labels", names.POOL_LABEL)
        group = text(labels, "labels", names.GROUP_LABEL)
        for condition in items(pod, "status", "conditions"):
            if (
                pool
                and text(condition, "type") == "PodScheduled"
                and text(condition, "reason") == "Unschedulable"
            ):
                told[f"{pool}-{group}"] = text(condition, "message")
    return told


def unhealthy(ray_service: Object | None) -> dict[str, str]:
    """Return by unit what Ray Serve says of applications that do not run."""
    told: dict[str, str] = {}
    states = part(ray_service, "status", "activeServiceStatus", "applicationStatuses")
    for name, state in states.items():
        status = text(state, "status")
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            deployments = part(state, "serveDeploymentStatuses")
            words = [text(state, "message"), *(text(d, "message") for d in deployments.values())]
            said = next((" ".join(word.split()) for word in words if word), "")
            unit = name.removeprefix(application_name(""))
            told[unit] = f"Ray Serve says {status}: {said}"[:_LONGEST]
    return told


def failing(pods: list[Object]) -> dict[str, str]:
    """Return by unit, or component, why containers do not come up, in the kubelet's words."""
    told: dict[str, str] = {}
    for pod in pods:
        labels = part(pod, "metadata", "labels")
        pool, group = text(labels, names.POOL_LABEL), text(labels, names.GROUP_LABEL)
        whose = f"{pool}-{group}" if pool else text(labels, names.COMPONENT_LABEL)
        for kind in ("initContainerStatuses", "containerStatuses"):
            for container in items(pod, "status", kind):
                why = _stuck(container)
                if why:
                    told[whose] = f"container {text(container, 'name')}: {why}"
    return told


def _stuck(container: Object) -> str:
    reason = text(container, "state", "waiting", "reason")
    if reason not in _FAILING:
        return ""
    last = container.get("lastState")
    code = number(last, "terminated", "exitCode")
    words = text(last, "terminated", "message").strip().splitlines()
    said = words[-1] if words else text(container, "state", "waiting", "message")
    told = reason if code is None else f"{reason}, ended with {code}"
    if text(last, "terminated", "reason") == "OOMKilled":
        told += " (out of memory)"
    return f"{told}: {said}"[:_LONGEST] if said else told
