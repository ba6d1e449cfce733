"""Claims: the verification policies of one service's manifests, read beside one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dspark_operator.conditions import Condition, fails
from dspark_operator.document import Object, number, text
from dspark_operator.spec.parse import Service, SpecError, parse_policy
from dspark_operator.verification import Asked, Wish

_Place = tuple[str, bool]
"""(unit, whether it is for a share of the replicas only)."""


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

    @property
    def places(self) -> tuple[_Place, ...]:
        """What no other manifest can have."""
        canary = self.wish is not None and self.wish.is_canary
        return tuple((unit, canary) for unit in self.units)


def asked_of(unit: str, read: Sequence[Claim]) -> Asked:
    """Return what manifests ask for a unit."""
    wishes = [claim.wish for claim in read if unit in claim.units and claim.wish is not None]
    return Asked(
        whole=next((wish for wish in wishes if not wish.is_canary), None),
        canary=next((wish for wish in wishes if wish.is_canary), None),
    )


def claims(manifests: Sequence[Object], service: Service | None) -> list[Claim]:
    """Read the manifests of one service; of two that speak of the same unit the older one counts.

    One for a share of the replicas lies beside one for all of them.

    Args:
        manifests: VerificationPolicies with the service's name.
        service: The service; None where it does not exist or is being deleted.
    """
    taken: dict[_Place, str] = {}
    read = []
    by_age = sorted(
        manifests,
        key=lambda m: (text(m, "metadata", "creationTimestamp"), text(m, "metadata", "name")),
    )
    for manifest in by_age:
        claim = _claim(manifest, service, taken)
        taken |= dict.fromkeys(claim.places, claim.name)
        read.append(claim)
    return read


def _claim(manifest: Object, service: Service | None, taken: Mapping[_Place, str]) -> Claim:
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
    why = f"VerificationPolicy {name}" + (f": {spec.reason}" if spec.reason else "")
    wish = Wish(policy=spec.policy(), reason=why)
    claim = Claim(name=name, generation=generation, units=units, wish=wish)
    clash = {taken[place] for place in claim.places if place in taken}
    if clash:
        older = ", ".join(sorted(clash))
        return refused("Conflicted", f"the older {older} speaks of the same verifiers")
    return claim
