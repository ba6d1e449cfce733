"""Verification policies: what manifests ask, what the controller holds, and what follows.

A controller's policies are layers: one without an end, and overrides with a time to live on top
of it.  The one without an end is the manifest's; an override is somebody's at the control API and
wins while it lasts.  So a manifest is only set where no override lies on top, since setting it
would end that override: it waits instead.  What somebody set without an end gives way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from dspark.core.policy import Policy
from dspark_operator.conditions import Condition, fails, holds, merge, unknown
from dspark_operator.document import Json, Object, items, number, text
from dspark_operator.spec.front import OPERATORS_TOKEN
from dspark_operator.spec.parse import Service, SpecError, parse_policy

CONDITIONS = ("Accepted", "Ready", "InForce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One policy of a unit.

    Attributes:
        policy: What was asked.
        author: Who asked: the name of a token.
        reason: Why.
        until_unix_s: When it ends; None: when somebody changes it.
    """

    policy: Policy
    author: str
    reason: str
    until_unix_s: float | None = None

    def __str__(self) -> str:
        end = self.until_unix_s
        until = "" if end is None else f" until {datetime.fromtimestamp(end, UTC):%FT%TZ}"
        return f"{self.author} set {self.policy}{until}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the controller holds for a unit.

    Attributes:
        version: Of the unit's policy; a change names the one that it was decided on.
        layers: Policies that have not ended, the one in force last.
    """

    version: int
    layers: tuple[Layer, ...] = ()

    @property
    def base(self) -> Layer | None:
        """The policy without an end."""
        return self.layers[0] if self.layers and self.layers[0].until_unix_s is None else None

    @property
    def override(self) -> Layer | None:
        """The policy with an end that is in force."""
        return self.layers[-1] if self.layers and self.layers[-1].until_unix_s else None

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.layers[-1].policy if self.layers else Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a manifest asks for a unit: the policy, and the reason for the history."""

    policy: Policy
    reason: str


class Act(Enum):
    """What to do about a unit's policy."""

    NOTHING = "nothing"
    SET = "set the manifest's"
    CLEAR = "clear what no manifest asks for any more"
    WAIT = "wait for the end of an override"


def next_act(wish: Wish | None, held: Held) -> Act:
    """Decide what happens to a unit's policy.

    Args:
        wish: Of the manifest; None: no manifest speaks of this unit.
        held: By the controller.
    """
    base = held.base
    ours = base is not None and base.author == OPERATORS_TOKEN
    if wish is None:
        settled, act = not ours, Act.CLEAR
    else:
        same = base is not None and (base.policy, base.reason) == (wish.policy, wish.reason)
        settled, act = ours and same, Act.SET
    if settled:
        return Act.NOTHING
    return act if held.override is None else Act.WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One manifest, read beside the others of its service.

    Attributes:
        name: metadata.name.
        generation: metadata.generation.
        units: Verifier units that it speaks of; empty where it is not accepted.
        wish: What it asks for them.
        refusal: Why it is not accepted; None: it is.
    """

    name: str
    generation: int
    units: tuple[str, ...] = ()
    wish: Wish | None = None
    refusal: Condition | None = None


def claims(manifests: Sequence[Object], service: Service | None) -> list[Claim]:
    """Read the manifests of one service; of two that speak of the same unit the older one counts.

    Args:
        manifests: VerificationPolicies with the service's name.
        service: The service; None where it does not exist or is being deleted.
    """
    taken: dict[str, str] = {}
    read = []
    by_age = sorted(
        manifests,
        key=lambda m: (text(m, "metadata", "creationTimestamp"), text(m, "metadata", "name")),
    )
    for manifest in by_age:
        claim = _claim(manifest, service, taken)
        taken |= dict.fromkeys(claim.units, claim.name)
        read.append(claim)
    return read


def _claim(manifest: Object, service: Service | None, taken: Mapping[str, str]) -> Claim:
    name = text(manifest, "metadata", "name")
    generation = number(manifest, "metadata", "generation") or 0

    def refused(reason: str, message: str) -> Claim:
        refusal = fails("Accepted", reason, message)
        return Claim(name=name, generation=generation, refusal=refusal)

    try:
        spec = parse_policy(manifest)
    except SpecError as error:
        return refused("InvalidSpec", str(error))
    if service is None:
        return refused("ServiceMissing", f"there is no DSparkService {spec.service_name} here")
    known = {
        pool.unit(group): (pool.name, group.name)
        for pool, group in service.spec.units()
        if pool.role == "verifier"
    }
    units = tuple(
        unit
        for unit, (pool, group) in known.items()
        if spec.pool_name in (None, pool) and spec.group_name in (None, group)
    )
    if not units:
        there = ", ".join(f"{pool}/{group}" for pool, group in known.values())
        return refused("PoolMissing", f"no verifier group is meant; there are {there}")
    clash = {taken[unit] for unit in units if unit in taken}
    if clash:
        older = ", ".join(sorted(clash))
        return refused("Conflicted", f"the older {older} speaks of the same verifiers")
    why = f"VerificationPolicy {name}" + (f": {spec.reason}" if spec.reason else "")
    wish = Wish(policy=spec.policy(), reason=why)
    return Claim(name=name, generation=generation, units=units, wish=wish)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one unit.

    Attributes:
        act: What is left to do: NOTHING or WAIT.
        held: By the controller in the end; None: it could not be asked.
        problem: Why not.
        unreachable: Nobody answered.
        replaced: What somebody had set without an end, and the manifest took the place of.
    """

    act: Act = Act.NOTHING
    held: Held | None = None
    problem: str = ""
    unreachable: bool = False
    replaced: Layer | None = None


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
    over = {
        unit: f"{unit}: {outcome.held.override}"
        for unit, outcome in own.items()
        if outcome.held is not None and outcome.held.override is not None
    }
    waiting = [over[unit] for unit, outcome in own.items() if outcome.act is Act.WAIT]
    ready = holds("Ready", "Applied", "the controller holds this policy")
    if waiting:
        ready = fails("Ready", "WaitingForOverride", "; ".join(waiting))
    in_force = holds("InForce", "InForce", "verifiers follow this policy")
    if over:
        in_force = fails("InForce", "Overridden", "; ".join(over.values()))
    return [accepted, ready, in_force]


def _pool(unit: str, held: Held) -> Json:
    told: Object = {"name": unit, "policy": str(held.policy), "version": held.version}
    override = held.override
    if override is not None and override.until_unix_s is not None:
        until = datetime.fromtimestamp(override.until_unix_s, UTC)
        told |= {"overriddenBy": override.author, "overriddenUntil": f"{until:%FT%TZ}"}
    return told
