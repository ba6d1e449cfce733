"""Trouble: what keeps a pod from coming up is told in the words of who knows."""

from typing import Any

import pytest

from dspark_operator import names
from dspark_operator.trouble import failing, unhealthy, unschedulable


def _pod(component: str, pool: str = "", **status: Any) -> dict[str, Any]:
    labels = {names.COMPONENT_LABEL: component}
    if pool:
        labels |= {names.POOL_LABEL: pool, names.GROUP_LABEL: "big"}
    return {"metadata": {"labels": labels}, "status": status}


def _waits(why: str, said: str = "", **last: Any) -> dict[str, Any]:
    return {
        "name": "engine",
        "state": {"waiting": {"reason": why, "message": said}},
        "lastState": {"terminated": last} if last else {},
    }


@pytest.mark.parametrize(
    ("container", "told"),
    [
        (
            _waits("ImagePullBackOff", "Back-off pulling image"),
            "container engine: ImagePullBackOff: Back-off pulling image",
        ),
        (
            _waits("CreateContainerConfigError", 'secret "hub" not found'),
            'container engine: CreateContainerConfigError: secret "hub" not found',
        ),
        (
            _waits("CrashLoopBackOff", "back-off", exitCode=1, message="one\ndspark: no CUDA\n"),
            "container engine: CrashLoopBackOff, ended with 1: dspark: no CUDA",
        ),
        (
            _waits("CrashLoopBackOff", "back-off", exitCode=137, reason="OOMKilled"),
            "container engine: CrashLoopBackOff, ended with 137 (out of memory): back-off",
        ),
        (_waits("ContainerCreating"), None),
        ({"name": "engine", "state": {"running": {}}}, None),
    ],
)
def test_what_a_container_waits_for(container: dict[str, Any], told: str | None) -> None:
    for kind in ("initContainerStatuses", "containerStatuses"):
        pods = [_pod("engine", "verifier", **{kind: [container]}), _pod("gateway")]
        assert failing(pods) == ({"verifier-big": told} if told else {})


def test_a_pod_outside_of_pools_is_told_by_its_component() -> None:
    pod = _pod("gateway", containerStatuses=[_waits("ErrImagePull", "not found")])
    assert failing([pod]) == {"gateway": "container engine: ErrImagePull: not found"}


def test_an_application_that_serve_cannot_deploy_is_told_by_unit() -> None:
    states = {
        "dspark-verifier-big": {
            "status": "DEPLOY_FAILED",
            "serveDeploymentStatuses": {"verifier": {"message": "no GPU\n  is there"}},
        },
        "dspark-drafter-small": {"status": "RUNNING", "message": "x"},
        "dspark-prefill-any": {"status": "UNHEALTHY", "message": "died"},
    }
    live: Any = {"status": {"activeServiceStatus": {"applicationStatuses": states}}}
    assert unhealthy(live) == {
        "verifier-big": "Ray Serve says DEPLOY_FAILED: no GPU is there",
        "prefill-any": "Ray Serve says UNHEALTHY: died",
    }
    assert unhealthy(None) == {}


def test_pods_without_a_node_are_told_by_unit() -> None:
    condition = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/3 nodes"}
    pods = [_pod("engine", "verifier", conditions=[condition]), _pod("engine", "drafter")]
    assert unschedulable(pods) == {"verifier-big": "0/3 nodes"}
