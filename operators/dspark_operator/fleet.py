"""The fleet: what a gateway can route to, and what the controller that leads knows now.

A gateway goes on with the last fleet that it saw, so it says what is served, and not what is so:
that is asked of the controller.
"""

import json
from dataclasses import dataclass

from dspark_operator.document import Object, at, items, number, text


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """One unit (a pool, for the controller).

    Attributes:
        ready: Replicas that take new work.
        wanted: Replicas that the controller wants; None: it has no wish, or was not asked.
        profiled: Ready replicas with a measured cost curve.
        connected_drafters: Drafters that its verifiers work with, over all of them.
        budget: Why the budget is what it is; None: none was computed.
        drafting: Whether the budget has drafts at any load; None: there is none.
    """

    ready: int = 0
    wanted: int | None = None
    profiled: int = 0
    connected_drafters: int = 0
    budget: str | None = None
    drafting: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """All units by name; a unit without replicas may be absent."""

    units: dict[str, UnitReport]

    def unit(self, name: str) -> UnitReport:
        """Return one unit; empty where nothing is known of it."""
        return self.units.get(name, UnitReport())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back to a question for the fleet, or why nothing did."""

    fleet: FleetReport | None = None
    problem: str = ""


def believed(answer: Answer, last: Answer) -> Answer:
    """Return what to go by: one question without an answer is no news.

    Args:
        answer: Of this look.
        last: Of the look before, as it came.
    """
    return last if answer.fleet is None and last.fleet is not None else answer


def parse_routes(body: str) -> FleetReport:
    """Read a gateway's ``/dspark/fleet``: how many replicas of each unit it can route to.

    Raises:
        ValueError: It is not a fleet.
    """
    fleet = json.loads(body)
    if not isinstance(fleet, dict) or "members" not in fleet:
        raise ValueError("the answer is not a fleet")
    ready: dict[str, int] = {}
    for member in items(fleet, "members"):
        if text(member, "replica", "state") == "ready":
            unit = text(member, "replica", "pool")
            ready[unit] = ready.get(unit, 0) + 1
    return FleetReport(units={unit: UnitReport(ready=count) for unit, count in ready.items()})


def read_fleet(fleet: Object) -> FleetReport:
    """Read a control API's ``/v1/fleet``."""
    return FleetReport(units={text(pool, "name"): _unit(pool) for pool in items(fleet, "pools")})


def _unit(pool: Object) -> UnitReport:
    ready = [one for one in items(pool, "replicas") if text(one, "state") == "ready"]
    budget, drafting = at(pool, "budget"), at(pool, "drafting")
    return UnitReport(
        ready=len(ready),
        wanted=number(pool, "wanted_replicas"),
        profiled=sum(bool(text(one, "curve_version")) for one in ready),
        connected_drafters=sum(number(one, "connected_drafters") or 0 for one in ready),
        budget=budget if isinstance(budget, str) else None,
        drafting=drafting if isinstance(drafting, bool) else None,
    )
