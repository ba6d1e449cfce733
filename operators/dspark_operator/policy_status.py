"""The status of a VerificationPolicy: whether its controller holds it, and who does otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dspark_operator.claims import Claim
from dspark_operator.conditions import Condition, fails, holds, merge, unknown
from dspark_operator.document import Json, Object, items
from dspark_operator.verification import Act, Held, Layer

CONDITIONS = ("Accepted", "Ready", "InForce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one unit.

    Attributes:
        act: What is left to do: NOTHING or WAIT.
        held: By the controller in the end; None: it could not be asked.
        problem: Why not.
        unreachable: Nobody answered.
        replaced: What somebody had set without an end, and the manifest took the place of.
        canaries: Replicas that follow the canary's policy; None: no manifest asks for one.
    """

    act: Act = Act.NOTHING
    held: Held | None = None
    problem: str = ""
    unreachable: bool = False
    replaced: Layer | None = None
    canaries: int | None = None


def policy_status(
    claim: Claim, outcomes: Mapping[str, Outcome], before: Object, *, timestamp: str
) -> Object:
    """Return the whole status of a VerificationPolicy.

    Args:
        claim: The manifest as it was read.
        outcomes: By unit.
        before: Its status as reported last.
        timestamp: RFC 3339.
    """
    own = {unit: outcomes[unit] for unit in claim.units}
    return {
        "observedGeneration": claim.generation,
        "conditions": merge(
            items(before, "conditions"),
            _conditions(claim, own),
            generation=claim.generation,
            timestamp=timestamp,
        ),
        "pools": [_pool(unit, outcome.held) for unit, outcome in own.items() if outcome.held],
    }


def _conditions(claim: Claim, own: Mapping[str, Outcome]) -> list[Condition]:
    refusal = claim.refusal
    if refusal is not None:
        told = (refusal.reason, refusal.message)
        return [refusal, fails("Ready", *told), fails("InForce", *told)]
    accepted = holds("Accepted", "Valid", f"speaks of {', '.join(claim.units)}")
    lost = [f"{unit}: {outcome.problem}" for unit, outcome in own.items() if outcome.problem]
    if lost:
        told = ("ControllerUnknown", "; ".join(lost))
        return [accepted, unknown("Ready", *told), unknown("InForce", *told)]
    seen = {unit: outcome.held for unit, outcome in own.items() if outcome.held is not None}
    wish = claim.wish
    assert wish is not None, "it is accepted"
    waiting = [f"{unit}: {held.lasting}" for unit, held in seen.items() if not wish.is_held(held)]
    ready = holds("Ready", "Applied", "the controller holds this policy")
    if waiting:
        ready = fails("Ready", "WaitingForOverride", "; ".join(waiting))
    if wish.is_canary:
        return [accepted, ready, _canary_in_force(own, waiting)]
    return [accepted, ready, _whole_in_force(seen, waiting)]


def _whole_in_force(seen: Mapping[str, Held], waiting: list[str]) -> Condition:
    over = [f"{unit}: {held.override}" for unit, held in seen.items() if held.override]
    canaries = [f"{unit}: {held.canary}" for unit, held in seen.items() if held.canary]
    if over:
        return fails("InForce", "Overridden", "; ".join(over))
    if waiting:
        return fails("InForce", "WaitingForOverride", "; ".join(waiting))
    if canaries:
        return holds("InForce", "Canary", f"but for a share: {'; '.join(canaries)}")
    return holds("InForce", "InForce", "verifiers follow this policy")


def _canary_in_force(own: Mapping[str, Outcome], waiting: list[str]) -> Condition:
    if waiting:
        return fails("InForce", "Overridden", "; ".join(waiting))
    followers = {unit: outcome.canaries or 0 for unit, outcome in own.items()}
    alone = [unit for unit, count in followers.items() if count == 0]
    if alone:
        told = f"no replica of {', '.join(alone)} follows it: a canary needs a second ready one"
        return fails("InForce", "NoCanary", told)
    told = ", ".join(f"{count} of {unit}" for unit, count in followers.items())
    return holds("InForce", "InForce", f"replicas that follow this policy: {told}")


def _pool(unit: str, held: Held) -> Json:
    told: Object = {"name": unit, "policy": str(held.policy), "version": held.version}
    override = held.override
    if override is not None and override.until_unix_s is not None:
        until = datetime.fromtimestamp(override.until_unix_s, UTC)
        told |= {"overriddenBy": override.author, "overriddenUntil": f"{until:%FT%TZ}"}
    return told
