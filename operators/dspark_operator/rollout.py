"""Rollout: from what should be and what is, the next step for the RayService, and its reason.

KubeRay replaces the whole cluster when ``rayClusterConfig`` changes, beyond counts, tolerations
and groups added at the end; a second cluster has every GPU twice.  So a step is either provably in
place, and then goes out with upgrades switched off; or it needs a new cluster, and then happens
only where the user allowed it, beginning with as few GPUs as the surge admits; or it is held.
"""

import json
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum

from dspark_operator import GROUP
from dspark_operator.document import Json, Object, digest, items, number, part, text
from dspark_operator.drift import drift
from dspark_operator.manifests.objects import stamped
from dspark_operator.spec.service import UpdateStrategy

SHAPE_ANNOTATION = f"{GROUP}/cluster-shape"
"""Digests of what KubeRay compares: ``{"": everything but groups, group name: group}``."""

FROM_ANNOTATION = f"{GROUP}/upgrade-from"
"""The Ray cluster that an upgrade was asked to replace."""

_INCREMENTAL = "NewClusterWithIncrementalUpgrade"
_COUNTS = ("replicas", "minReplicas", "maxReplicas")
_MUTED = (*_COUNTS, "scaleStrategy")


class StepKind(Enum):
    """What to do with the RayService."""

    NOTHING = "nothing"
    CREATE = "create"
    IN_PLACE = "in place"
    NEW_CLUSTER = "new cluster"
    WAIT = "wait"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A decision.

    Attributes:
        kind: What to do.
        reason: CamelCase, for conditions and events.
        message: One sentence for people.
        manifest: What to apply, for the kinds that apply something.
    """

    kind: StepKind
    reason: str
    message: str
    manifest: Object | None = None


def next_step(
    desired: Object, live: Object | None, strategy: UpdateStrategy, *, pods_left: int = 0
) -> Step:
    """Decide what happens to the RayService.

    Args:
        desired: As the spec alone would have it.
        live: As the API server has it, or None.
        strategy: What the user allows.
        pods_left: Ray's pods of this service that exist, ending or not.
    """
    if live is None and pods_left:
        # They hold their GPUs until they have drained.
        return _wait("OldPodsEnding", f"{pods_left} pods of the deleted RayService still end")
    if live is None:
        return Step(
            kind=StepKind.CREATE,
            reason="Creating",
            message="the RayService does not exist yet",
            manifest=_shaped(desired, {}),
        )
    if text(live, "metadata", "deletionTimestamp"):
        return _wait("BeingDeleted", "the RayService is being deleted; it is made again afterwards")
    upgrading = _upgrading(live)
    if upgrading is not None:
        return _wait("RolloutInProgress", upgrading)
    merged = in_place(desired, live)
    changed = _changed_shape(merged, live)
    if not changed:
        why = drift(merged, live)
        if why is None:
            return Step(kind=StepKind.NOTHING, reason="UpToDate", message="everything is applied")
        return Step(
            kind=StepKind.IN_PLACE,
            reason="UpdatingInPlace",
            message=f"applied to the running cluster: {why}",
            manifest=merged,
        )
    what = ", ".join(changed)
    if strategy.surge is None or strategy.type != _INCREMENTAL:
        return Step(
            kind=StepKind.HOLD,
            reason="NewClusterNeeded",
            message=f"{what} cannot be changed in the running Ray cluster and "
            "spec.updateStrategy.type is None: undo the edit, allow "
            f"{_INCREMENTAL}, or delete the RayService in a quiet hour",
        )
    allowed = cluster_gpus(live) * strategy.surge.max_percent // 100
    extra = cluster_gpus(desired, percent=strategy.surge.max_percent)
    if extra > allowed:
        return Step(
            kind=StepKind.HOLD,
            reason="SurgeTooSmall",
            message=f"{what} needs a new Ray cluster whose smallest step takes {extra} GPUs, and "
            f"a surge of {strategy.surge.max_percent}% allows {allowed}",
        )
    return Step(
        kind=StepKind.NEW_CLUSTER,
        reason="UpgradingIncrementally",
        message=f"{what} needs a new Ray cluster; it takes over with at most {extra} more GPUs",
        manifest=_upgrade(desired, live, strategy),
    )


def in_place(desired: Object, live: Object) -> Object:
    """Return ``desired`` with its groups in the order in which the running cluster has them.

    Groups that are no longer wanted stay, at zero replicas: removing one would replace the
    cluster.  New groups come last, where KubeRay adds them without a new cluster.
    """
    wanted = {text(group, "groupName"): group for group in _groups(desired)}
    ordered: list[Json] = []
    for group in _groups(live):
        name = text(group, "groupName")
        ordered.append(
            wanted.pop(name) if name in wanted else {**group, **dict.fromkeys(_COUNTS, 0)}
        )
    ordered += wanted.values()
    merged = deepcopy(desired)
    part(merged, "spec", "rayClusterConfig")["workerGroupSpecs"] = ordered
    return _shaped(merged, _shape(live))


def count_patch(merged: Object, cluster: Object) -> list[Object]:
    """Return a JSON patch that gives the running RayCluster the bounds of its groups.

    KubeRay does not carry bounds from a RayService to a cluster that exists, and Ray's autoscaler
    reads them there.
    """
    bounds = {text(group, "groupName"): group for group in _groups(merged)}
    patch: list[Object] = []
    for position, group in enumerate(items(cluster, "spec", "workerGroupSpecs")):
        name = text(group, "groupName")
        wanted = bounds.get(name)
        if wanted is None:
            continue
        at = f"/spec/workerGroupSpecs/{position}"
        changes: list[Object] = [
            {"op": "replace", "path": f"{at}/{key}", "value": wanted[key]}
            for key in ("minReplicas", "maxReplicas")
            if number(group, key) != wanted[key]
        ]
        if changes:
            # Positions are only right while the group is still there.
            patch += [{"op": "test", "path": f"{at}/groupName", "value": name}, *changes]
    return patch


def cluster_gpus(ray_service: Object, *, percent: int = 100) -> int:
    """Return the most GPUs that a RayService's cluster may hold at a share of its capacity.

    Rounded up for each group, as Serve never goes below one replica of an application.
    """
    return sum(
        _group_gpus(group, percent)
        for group in _groups(ray_service)
        if (number(group, "maxReplicas") or 0) > 0
    )


def _group_gpus(group: Object, percent: int) -> int:
    pods = number(group, "maxReplicas") or 0
    share = -(-pods * percent // 100)
    resources = part(group, "resources")
    return share * int(str(resources.get("GPU", "0")))


def _upgrade(desired: Object, live: Object, strategy: UpdateStrategy) -> Object:
    surge = strategy.surge
    assert surge is not None
    manifest = _shaped(desired, {})
    spec = part(manifest, "spec")
    for group in _groups(manifest):
        # Pods come when Serve's share of the replicas asks for them, not all at once.
        group |= {"replicas": 0, "minReplicas": 0}
    spec["upgradeStrategy"] = {
        "type": _INCREMENTAL,
        "clusterUpgradeOptions": {
            "maxSurgePercent": surge.max_percent,
            "stepSizePercent": min(surge.step_percent, surge.max_percent),
            "intervalSeconds": surge.interval_seconds,
            "gatewayClassName": surge.gateway_class_name,
        },
    }
    running = text(live, "status", "activeServiceStatus", "rayClusterName")
    part(manifest, "metadata", "annotations")[FROM_ANNOTATION] = running
    return stamped(manifest)


def _upgrading(live: Object) -> str | None:
    """Say what an upgrade is waiting for, or return None where there is none."""
    if text(live, "spec", "upgradeStrategy", "type") != _INCREMENTAL:
        return None
    running = text(live, "status", "activeServiceStatus", "rayClusterName")
    pending = text(live, "status", "pendingServiceStatus", "rayClusterName")
    if pending:
        return f"Ray cluster {pending} is taking over from {running or 'none'}"
    if running == text(live, "metadata", "annotations", FROM_ANNOTATION):
        return f"KubeRay has not begun to replace Ray cluster {running}"
    return None


def _wait(reason: str, message: str) -> Step:
    return Step(kind=StepKind.WAIT, reason=reason, message=message)


def _groups(ray_service: Object) -> list[Object]:
    return items(ray_service, "spec", "rayClusterConfig", "workerGroupSpecs")


def _changed_shape(merged: Object, live: Object) -> list[str]:
    """Name what differs in a way that only a new cluster can have."""
    new, old = _shape(merged), _shape(live)
    if not old:
        return ["a RayService that was not made by this operator"]
    return [
        f"worker group {name}" if name else "Ray's version, head or options"
        for name in sorted(old)
        if new.get(name) != old[name]
    ]


def _shape(ray_service: Object) -> dict[str, str]:
    try:
        found = json.loads(text(ray_service, "metadata", "annotations", SHAPE_ANNOTATION) or "{}")
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _shaped(manifest: Object, kept: dict[str, str]) -> Object:
    """Return the manifest annotated with its shape; ``kept`` wins for groups at zero."""
    manifest = deepcopy(manifest)
    cluster = deepcopy(part(manifest, "spec", "rayClusterConfig"))
    shape: dict[str, Json] = {}
    for group in items(cluster, "workerGroupSpecs"):
        name = text(group, "groupName")
        retired = name in kept and not number(group, "maxReplicas")
        shape[name] = kept[name] if retired else digest(_muted(group))
    del cluster["workerGroupSpecs"]
    cluster["headGroupSpec"] = _muted(part(cluster, "headGroupSpec"))
    shape[""] = digest(cluster)
    noted = part(manifest, "metadata", "annotations")
    noted[SHAPE_ANNOTATION] = json.dumps(shape, sort_keys=True)
    return stamped(manifest)


def _muted(group: Object) -> Object:
    """Return a group without what KubeRay leaves out of its comparison."""
    bare = {key: value for key, value in group.items() if key not in _MUTED}
    pod = part(bare, "template", "spec")
    for key in ("tolerations", "schedulingGates"):
        pod.pop(key, None)
    return bare
