"""Switch: TLS is turned on or off in all processes of a service at once, or not at all.

A gateway with it and engines without it do not understand each other, and no rolling edit of either
can be had without the other.
"""

from dataclasses import replace

from dspark.config.tls import HttpPort
from dspark_operator.document import Object, items, text
from dspark_operator.manifests.pods import TLS_VOLUME
from dspark_operator.rollout import Step, StepKind
from dspark_operator.spec.parse import Service
from dspark_operator.spec.tls import TlsSpec


def held_switch(
    desired: Object, live: Object | None, ray_service: Object | None, pods_left: int
) -> Step | None:
    """Return what is done instead of rolling where an edit turns TLS on or off; None: roll.

    Args:
        desired: The gateway's Deployment as the spec would have it.
        live: ... as the API server has it, or None.
        ray_service: As the API server has it, or None.
        pods_left: Ray's pods of this service that exist, ending or not.
    """
    if live is None or _speaks_tls(desired) == _speaks_tls(live):
        return None
    if ray_service is None and not pods_left:
        return None
    if ray_service is None or text(ray_service, "metadata", "deletionTimestamp"):
        return Step(
            kind=StepKind.WAIT,
            reason="OldPodsEnding",
            message=f"{pods_left} pods of the deleted RayService still end; then TLS is turned "
            f"{'on' if _speaks_tls(desired) else 'off'} everywhere",
        )
    return Step(
        kind=StepKind.HOLD,
        reason="NewClusterNeeded",
        message="spec.tls cannot be turned on or off while engines run, whatever "
        "spec.updateStrategy says: undo the edit, or delete the RayService in a quiet hour",
    )


def as_running(service: Service, gateway: Object | None, controller: Object | None) -> Service:
    """Return the service with the TLS that its Deployments have: how it is asked meanwhile."""
    tls = None
    for volume in _volumes(gateway):
        sources = items(volume, "projected", "sources")
        if text(volume, "name") == TLS_VOLUME and len(sources) == 2:
            ports: tuple[tuple[HttpPort, Object | None], ...] = (
                ("gateway", gateway), ("api", controller),
            )  # fmt: skip
            plain = [port for port, deployment in ports if not _probed_by_https(deployment)]
            tls = TlsSpec.model_validate(
                {
                    "secretName": text(sources[0], "secret", "name"),
                    "authorityConfigMapName": text(sources[1], "configMap", "name"),
                    "plainHttp": plain,
                }
            )
    return replace(service, spec=service.spec.model_copy(update={"tls": tls}))


def _probed_by_https(deployment: Object | None) -> bool:
    containers = items(deployment, "spec", "template", "spec", "containers")
    return any(text(c, "readinessProbe", "httpGet", "scheme") == "HTTPS" for c in containers)


def _volumes(deployment: Object | None) -> list[Object]:
    return items(deployment, "spec", "template", "spec", "volumes")


def _speaks_tls(deployment: Object) -> bool:
    return any(text(volume, "name") == TLS_VOLUME for volume in _volumes(deployment))
