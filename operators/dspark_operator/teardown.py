"""Teardown: in which order a deleted service stops, so that no stream is cut."""

from dataclasses import dataclass
from enum import Enum


class Stop(Enum):
    """What to do next."""

    GATEWAY = "delete the gateway"
    ENGINES = "delete the RayService"
    WAIT = "wait"
    DONE = "release the finalizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What of a service still exists.

    Attributes:
        gateway: Its Deployment.
        gateway_pods: Pods of the gateway, ending or not.
        ray_service: The RayService.
        ray_service_ending: ... and it is being deleted.
        engine_pods: Pods of Ray, ending or not.
        waited_s: Seconds since the deletion was asked for.
        patience_s: Longest time that draining may take.
    """

    gateway: bool
    gateway_pods: int
    ray_service: bool
    ray_service_ending: bool
    engine_pods: int
    waited_s: float
    patience_s: float


def next_stop(left: Left) -> tuple[Stop, str, str]:
    """Return what to do next, a CamelCase reason, and a sentence for people.

    The gateway goes first: it refuses new requests and lets open streams finish, which needs the
    engines.  Everything else is collected by its owner reference.
    """
    if left.waited_s > left.patience_s and (left.gateway_pods or left.engine_pods):
        return (
            Stop.DONE,
            "DrainTimedOut",
            f"draining took more than {left.patience_s:.0f} s; the rest is deleted as it is",
        )
    if left.gateway:
        return Stop.GATEWAY, "DrainingGateway", "the gateway finishes its streams"
    if left.gateway_pods:
        message = f"{left.gateway_pods} gateway pods finish their streams"
        return Stop.WAIT, "DrainingGateway", message
    if left.ray_service and not left.ray_service_ending:
        return Stop.ENGINES, "DrainingEngines", "the engines stop"
    if left.ray_service or left.engine_pods:
        return Stop.WAIT, "DrainingEngines", f"{left.engine_pods} Ray pods stop"
    return Stop.DONE, "Drained", "everything has stopped"
