"""Governing: the verification policies of one service, brought to its controller and back.

Path: manifests -> ``verification.claims`` -> for each verifier unit: ask, decide, change, ask again
-> status of every manifest.  What a manifest that is gone had asked for is cleared on the way.
"""

import logging
from datetime import UTC, datetime

from dspark_operator.control import ControlApi, ControlError, LostRace
from dspark_operator.document import Object, number, part, text
from dspark_operator.hands import Hands
from dspark_operator.spec.front import OPERATORS_TOKEN
from dspark_operator.spec.parse import Service
from dspark_operator.verification import (
    Act,
    Claim,
    Layer,
    Outcome,
    Wish,
    claims,
    next_act,
    policy_status,
)

log = logging.getLogger(__name__)

_ATTEMPTS = 5


def govern(hands: Hands, service: Service) -> None:
    """Bring the controller's policies to what the manifests say, and their status to what is so."""
    manifests = hands.eyes.policies(service.namespace, service.name)
    read = claims(manifests, service)
    wishes = {unit: claim.wish for claim in read for unit in claim.units}
    control = hands.control(service)
    outcomes: dict[str, Outcome] = {}
    nobody: Outcome | None = None
    for unit in service.spec.verifier_units():
        # One deadline is enough to know that nobody is there.
        outcome = nobody or settle(control, unit, wishes.get(unit))
        nobody = outcome if outcome.unreachable else None
        outcomes[unit] = outcome
    lost = any(outcome.problem for outcome in outcomes.values())
    if hands.lost_before(service.uid, lost=lost) or not lost:
        # One question without an answer is no news.
        _tell(hands, manifests, read, outcomes)


def settle(control: ControlApi, unit: str, wish: Wish | None) -> Outcome:
    """Bring one unit's policy to what is asked for; decided anew whenever somebody was faster."""
    replaced: Layer | None = None
    for _ in range(_ATTEMPTS):
        try:
            held = control.policy(unit)
            act = next_act(wish, held)
            if act in (Act.NOTHING, Act.WAIT):
                return Outcome(act=act, held=held, replaced=replaced)
            if act is Act.SET and wish is not None:
                control.set(unit, wish, held.version)
            else:
                control.clear(unit, held.version)
            log.info("%s: %s", unit, act.value)
            base = held.base
            replaced = base if base is not None and base.author != OPERATORS_TOKEN else replaced
        except LostRace:
            continue
        except ControlError as error:
            return Outcome(problem=str(error), unreachable=error.unreachable)
    return Outcome(problem="somebody changes it again and again")


def tell_that_it_is_gone(hands: Hands, namespace: str, service_name: str) -> None:
    """Say in the policies of a service that does not exist that they are not in force."""
    manifests = hands.eyes.policies(namespace, service_name)
    _tell(hands, manifests, claims(manifests, None), {})


def is_available(deployment: Object | None) -> bool:
    """Say whether a Deployment has a pod that is asked in vain only by bad luck."""
    return (number(deployment, "status", "availableReplicas") or 0) > 0


def _tell(
    hands: Hands, manifests: list[Object], read: list[Claim], outcomes: dict[str, Outcome]
) -> None:
    by_name = {text(manifest, "metadata", "name"): manifest for manifest in manifests}
    for claim in read:
        manifest = by_name[claim.name]
        for unit in claim.units:
            layer = outcomes[unit].replaced
            if layer is not None:
                hands.tell(
                    manifest, type="Warning", reason="Replaced", message=f"{unit}: {layer}"[:1000]
                )
        before = part(manifest, "status")
        now = f"{datetime.now(UTC):%FT%TZ}"
        status = policy_status(claim, outcomes, before, timestamp=now)
        if status != before:
            hands.report_policy(manifest, status)
