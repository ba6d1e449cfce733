"""The fleet as the running controller tells it: what is ready because it was seen to be."""

import json
from dataclasses import dataclass

from dspark.core.budget import DISABLED, OFF
from dspark_operator.document import Object, at, items, number, part, text


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """One unit (a pool, for the controller).

    Attributes:
        ready: Replicas that take new work.
        wanted: Replicas that the controller wants; None: it has no wish.
        profiled: Ready replicas with a measured cost curve.
        connected_drafters: Drafters that its verifiers work with, over all of them.
        budget_epoch: Epoch of the newest budget; None: none was computed.
        budget_reason: Why the budget is what it is.
        budget_off: The budget says not to draft.
    """

    ready: int = 0
    wanted: int | None = None
    profiled: int = 0
    connected_drafters: int = 0
    budget_epoch: int | None = None
    budget_reason: str = ""
    budget_off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """All units by name; a unit without replicas may be absent."""

    units: dict[str, UnitReport]

    def unit(self, name: str) -> UnitReport:
        """Return one unit; empty where the controller knows nothing of it."""
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


def parse_fleet(body: str) -> FleetReport:
    """Read the gateway's ``/dspark/fleet``.

    Raises:
        ValueError: It is not a fleet.
    """
    fleet = json.loads(body)
    if not isinstance(fleet, dict) or "members" not in fleet:
        raise ValueError("the answer is not a fleet")
    members: dict[str, list[Object]] = {}
    for member in items(fleet, "members"):
        if text(member, "replica", "state") == "ready":
            members.setdefault(text(member, "replica", "pool"), []).append(member)
    pools = {text(pool, "name"): pool for pool in items(fleet, "pools")}
    return FleetReport(
        units={
            name: _unit(pools.get(name, {}), members.get(name, [])) for name in {*pools, *members}
        }
    )


def _unit(pool: Object, members: list[Object]) -> UnitReport:
    buckets = items(pool, "budget", "buckets")
    entries = [entry for bucket in buckets for entry in _entries(bucket)]
    return UnitReport(
        ready=len(members),
        wanted=number(pool, "wanted_replicas"),
        profiled=sum(bool(items(member, "replica", "curve", "points")) for member in members),
        connected_drafters=sum(
            number(member, "load", "connected_drafters") or 0 for member in members
        ),
        budget_epoch=number(pool, "budget", "epoch"),
        budget_reason=text(part(pool, "budget"), "reason"),
        budget_off=bool(entries) and all(entry in (OFF, DISABLED) for entry in entries),
    )


def _entries(bucket: Object) -> list[int]:
    found = at(bucket, "draft_tokens")
    return [entry for entry in found if isinstance(entry, int)] if isinstance(found, list) else []
