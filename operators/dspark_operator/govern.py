"""Governing: policies and sizes of one service, brought to its controller and back.

Path: manifests -> ``claims`` -> for each verifier unit: ask, decide, change, ask again
-> status of every manifest.  What a manifest that is gone had asked for is cleared on the way.
"""

import logging
from datetime import UTC, datetime

from dspark_operator.claims import Claim, asked_of, claims
from dspark_operator.control import ControlApi, ControlError, LostRace
from dspark_operator.document import Object, number, part, text
from dspark_operator.hands import Hands
from dspark_operator.policy_status import Outcome, policy_status
from dspark_operator.sizing import REASON, next_wish
from dspark_operator.spec.front import OPERATORS_TOKEN
from dspark_operator.spec.parse import Service
from dspark_operator.verification import Act, Asked, Held, Layer, next_act

log = logging.getLogger(__name__)

_ATTEMPTS = 5


def govern(hands: Hands, service: Service) -> None:
    """Bring the controller's policies to what the manifests say, and their status to what is so."""
    manifests = hands.eyes.policies(service.namespace, service.name)
    read = claims(manifests, service)
    control = hands.control(service)
    outcomes: dict[str, Outcome] = {}
    nobody: Outcome | None = None
    for unit in service.spec.verifier_units():
        # One deadline is enough to know that nobody is there.
        outcome = nobody or settle(control, unit, asked_of(unit, read))
        nobody = outcome if outcome.unreachable else None
        outcomes[unit] = outcome
    lost = any(outcome.problem for outcome in outcomes.values())
    if hands.lost_before(service.uid, lost=lost) or not lost:
        # One question without an answer is no news.
        _tell(hands, manifests, read, outcomes)


def settle(control: ControlApi, unit: str, asked: Asked) -> Outcome:
    """Bring one unit's policy to what is asked for; decided anew whenever somebody was faster."""
    replaced: Layer | None = None
    for _ in range(_ATTEMPTS):
        try:
            held = control.policy(unit)
            act = next_act(asked, held)
            if act in (Act.NOTHING, Act.WAIT):
                canaries = None if asked.canary is None else control.canaries(unit)
                return Outcome(act=act, held=held, replaced=replaced, canaries=canaries)
            _carry_out(control, unit, act, asked, held)
            log.info("%s: %s", unit, act.value)
            gone = held.canary if act is Act.SET_CANARY else held.base
            replaced = gone if gone is not None and gone.author != OPERATORS_TOKEN else replaced
        except LostRace:
            continue
        except ControlError as error:
            return Outcome(problem=str(error), unreachable=error.unreachable)
    return Outcome(problem="somebody changes it again and again")


def _carry_out(control: ControlApi, unit: str, act: Act, asked: Asked, held: Held) -> None:
    wish = asked.canary if act is Act.SET_CANARY else asked.whole
    if act in (Act.SET, Act.SET_CANARY) and wish is not None:
        control.set(unit, wish, held.version)
    elif act is Act.END_CANARY and wish is not None:
        # What is set for all replicas ends the canary, be it the same as before.
        control.set(unit, wish, held.version)
    elif act is Act.END_CANARY and held.base is not None and held.canary is not None:
        # What lies below is somebody's, and stays theirs.
        control.undo(unit, held.canary.change, held.version)
    else:
        control.clear(unit, held.version)


def bring_sizes(hands: Hands, service: Service) -> str:
    """Ask the controller for the replicas that the spec says; return what stands against it."""
    problem = _bring_sizes(hands.control(service), service)
    if service.spec.replicas is None:
        return ""
    # One question without an answer is no news.
    return problem if hands.lost_before(f"{service.uid}/sizes", lost=bool(problem)) else ""


def _bring_sizes(control: ControlApi, service: Service) -> str:
    shares = service.spec.verifier_shares()
    problem = ""
    try:
        for unit in service.spec.verifier_units():
            problem = f"{unit}: "
            held = control.wished(unit)
            wish = next_wish(shares.get(unit), held)
            if wish is None:
                continue
            log.info("%s: asking for %s, not for %s", unit, wish, held)
            if wish.replicas is None:
                control.release(unit, REASON)
            else:
                control.wish(unit, wish.replicas, REASON)
    except ControlError as error:
        return problem + str(error)
    return ""


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
