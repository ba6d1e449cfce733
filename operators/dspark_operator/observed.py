"""Observed: what was seen of a service in one look, before anything is concluded from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dspark_operator.document import Object
from dspark_operator.fleet import FleetReport
from dspark_operator.rollout import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen in one look.

    Attributes:
        step: The rollout's decision on what was seen.
        ray_service: The RayService, if it exists.
        gateway: The gateway's Deployment, if it exists.
        controller: The controller's Deployment, if it exists.
        routes: What the gateway can route to; None: it could not be asked.
        routes_problem: Why it could not be asked.
        fleet: What the controller that leads says; None: it could not be asked.
        fleet_problem: Why it could not be asked.
        first_token: Whether a token came through the gateway; None: not tried.
        first_token_problem: What came instead.
        unschedulable: By unit: what the scheduler says of pods that find no node.
        failing: By unit, or component: why containers of it do not come up.
        missing_kinds: Optional kinds that the cluster does not know.
        sizes_problem: Why the controller could not be asked for ``spec.replicas``.
    """

    step: Step
    ray_service: Object | None = None
    gateway: Object | None = None
    controller: Object | None = None
    routes: FleetReport | None = None
    routes_problem: str = ""
    fleet: FleetReport | None = None
    fleet_problem: str = ""
    first_token: bool | None = None
    first_token_problem: str = ""
    unschedulable: Mapping[str, str] = field(default_factory=dict)
    failing: Mapping[str, str] = field(default_factory=dict)
    missing_kinds: tuple[str, ...] = ()
    sizes_problem: str = ""

    def with_first_token(self, problem: str) -> "Observed":
        """Return this with the answer to a request for one token; "" is a token."""
        return replace(self, first_token=not problem, first_token_problem=problem)
