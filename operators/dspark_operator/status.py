"""Status: what is true of a service, from what was observed; nothing is assumed.

``Ready`` means that a first token has come through the gateway.  ``SpeculationActive`` or
``VerifierReady`` may be False while ``Ready`` is True: then the same text comes, more slowly.
"""

from dspark_operator import names
from dspark_operator.conditions import Condition, fails, holds, merge, unknown
from dspark_operator.counts import pool_status, ready_verifiers, verifier_pods
from dspark_operator.document import Object, items, number, text
from dspark_operator.observed import Observed
from dspark_operator.rollout import StepKind
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pools import Role

CONDITIONS = (
    "Ready", "Reconciling", "Stalled", "PrefillReady", "DrafterReady", "VerifierReady",
    "RouterReady", "ProfileReady", "BudgetPublished", "ScalingReady", "SpeculationActive",
)  # fmt: skip

_NOT_ASKED = "the controller cannot be asked: "


def status_of(service: Service, seen: Observed, before: Object, *, timestamp: str) -> Object:
    """Return the whole status of a service."""
    return {
        "observedGeneration": service.generation,
        "conditions": merge(
            items(before, "conditions"),
            conditions_of(service, seen),
            generation=service.generation,
            timestamp=timestamp,
        ),
        "pools": [pool_status(service, pool, seen) for pool in service.spec.pools],
        "replicas": ready_verifiers(service, seen, before),
        "selector": verifier_pods(service),
        "gpus": service.spec.gpus(),
        "endpoint": f"{names.gateway_url(service)}/v1",
    }


def broken_status(
    generation: int, reason: str, message: str, before: Object, *, timestamp: str
) -> Object:
    """Return the status of a service whose spec cannot be carried out; the rest is kept."""
    old = {text(condition, "type"): condition for condition in items(before, "conditions")}
    now = [fails("Ready", reason, message), fails("Reconciling", reason, "nothing is changed"),
           holds("Stalled", reason, message)]  # fmt: skip
    for kind in CONDITIONS[3:]:
        kept = text(old.get(kind, {}), "status")
        if kept in ("True", "False"):
            continue
        now.append(unknown(kind, reason, "the spec has a mistake"))
    fresh = merge([*old.values()], now, generation=generation, timestamp=timestamp)
    said = {text(condition, "type") for condition in fresh}
    kept_on = [condition for kind, condition in old.items() if kind not in said]
    return {**before, "observedGeneration": generation, "conditions": [*fresh, *kept_on]}


def hindered_status(generation: int, message: str, before: Object, *, timestamp: str) -> Object:
    """Return the status where the API server failed us: what was said stays, but for the hindrance.

    ``observedGeneration`` stays too, since nothing was observed.
    """
    hindrance = holds("Reconciling", "ApiServerError", message)
    old = items(before, "conditions")
    if not old:
        first = [unknown(kind, "ApiServerError", message) for kind in CONDITIONS]
        now = [hindrance if c.type == "Reconciling" else c for c in first]
        return {**before, "conditions": merge([], now, generation=generation, timestamp=timestamp)}
    (fresh,) = merge(old, [hindrance], generation=generation, timestamp=timestamp)
    kept = [fresh if text(c, "type") == "Reconciling" else c for c in old]
    return {**before, "conditions": [*kept]}


def conditions_of(service: Service, seen: Observed) -> list[Condition]:
    """Return all conditions, the summary first."""
    router = _router(seen)
    roles: tuple[Role, ...] = ("prefill", "drafter", "verifier")
    by_role = {role: _role(service, role, seen) for role in roles}
    speculation = _speculation(service, seen, by_role["drafter"])
    return [
        _ready(service, seen),
        _reconciling(seen),
        _stalled(seen),
        *by_role.values(),
        router,
        _profile(service, seen),
        _budget(service, seen),
        _scaling(seen),
        speculation,
    ]


def obstacle(service: Service, seen: Observed) -> Condition | None:
    """Return why no token can come, or None: a gateway and one verifier are enough."""
    router = _router(seen)
    if router.status != "True":
        return router
    if seen.routes is None:
        return unknown("RouterReady", "RoutesUnknown", f"no gateway answers: {seen.routes_problem}")
    if not any(seen.routes.unit(unit).ready for unit in service.spec.verifier_units()):
        told = [f"{unit}: {seen.failing[unit]}" for unit in service.spec.verifier_units()
                if unit in seen.failing]  # fmt: skip
        why = f" ({'; '.join(told)})" if told else ""
        return fails("VerifierReady", "NoVerifierReady", f"no gateway knows a verifier{why}")
    return None


def _ready(service: Service, seen: Observed) -> Condition:
    missing = obstacle(service, seen)
    if missing is not None:
        return fails("Ready", missing.reason, missing.message)
    if seen.first_token:
        return holds("Ready", "FirstTokenSeen", "a token came through the gateway")
    problem = seen.first_token_problem or "no token was asked for yet"
    return fails("Ready", "NoFirstToken", f"no token came through the gateway: {problem}")


def _reconciling(seen: Observed) -> Condition:
    step = seen.step
    if step.kind in (StepKind.NOTHING, StepKind.HOLD):
        return fails("Reconciling", step.reason, step.message)
    return holds("Reconciling", step.reason, step.message)


def _stalled(seen: Observed) -> Condition:
    step = seen.step
    if step.kind is StepKind.HOLD:
        return holds("Stalled", step.reason, step.message)
    return fails("Stalled", step.reason, step.message)


def _router(seen: Observed) -> Condition:
    deployment = seen.gateway
    if deployment is None:
        return fails("RouterReady", "Creating", "the gateway does not exist yet")
    available = number(deployment, "status", "availableReplicas") or 0
    if available < 1:
        why = seen.failing.get(names.GATEWAY)
        if why:
            return fails("RouterReady", "PodsFailing", f"the gateway's {why}")
        return fails("RouterReady", "NoGatewayReady", "no gateway pod is available")
    return holds("RouterReady", "Available", f"{available} gateway pods are available")


def _role(service: Service, role: Role, seen: Observed) -> Condition:
    kind = f"{role.capitalize()}Ready"
    pools = [pool for pool in service.spec.pools if pool.role == role]
    if not pools and role == "prefill":
        return holds(kind, "RunByVerifiers", "no prefill pool: verifiers run prompts themselves")
    if not pools:
        return fails(kind, "NotConfigured", f"the spec has no {role} pool")
    if seen.fleet is None:
        return unknown(kind, "FleetUnknown", _NOT_ASKED + seen.fleet_problem)
    short = []
    for pool in pools:
        for group in pool.groups:
            unit = pool.unit(group)
            ready = seen.fleet.unit(unit).ready
            if ready < group.replicas.min:
                why = seen.unschedulable.get(unit) or seen.failing.get(unit)
                short.append(
                    f"{unit} has {ready} of {group.replicas.min}" + (f" ({why})" if why else "")
                )
    if short:
        reason = "NoDrafterReady" if role == "drafter" else "TooFewReplicas"
        return fails(kind, reason, "ready replicas: " + "; ".join(short))
    return holds(kind, "Available", "every group has its least number of ready replicas")


def _profile(service: Service, seen: Observed) -> Condition:
    if seen.fleet is None:
        return unknown("ProfileReady", "FleetUnknown", _NOT_ASKED + seen.fleet_problem)
    reports = {unit: seen.fleet.unit(unit) for unit in service.spec.verifier_units()}
    if not any(report.ready for report in reports.values()):
        return fails("ProfileReady", "ProfileMissing", "no verifier is ready")
    bare = [unit for unit, report in reports.items() if report.profiled < report.ready]
    if bare:
        return fails("ProfileReady", "ProfileMissing", f"no cost curve from {', '.join(bare)}")
    return holds("ProfileReady", "Measured", "every ready verifier has measured its cost curve")


def _budget(service: Service, seen: Observed) -> Condition:
    if seen.fleet is None:
        return unknown("BudgetPublished", "FleetUnknown", _NOT_ASKED + seen.fleet_problem)
    for unit in service.spec.verifier_units():
        report = seen.fleet.unit(unit)
        if report.budget is None:
            return fails("BudgetPublished", "MetricsMissing", f"{unit} has no budget yet")
    reasons = {
        unit: (seen.fleet.unit(unit).budget or "").partition(":")[0]
        for unit in service.spec.verifier_units()
    }
    told = "; ".join(f"{unit}: {reason}" for unit, reason in reasons.items())
    return holds("BudgetPublished", "Published", told)


def _scaling(seen: Observed) -> Condition:
    if seen.unschedulable:
        told = "; ".join(f"{unit}: {why}" for unit, why in sorted(seen.unschedulable.items()))
        return fails("ScalingReady", "InsufficientCapacity", told)
    if seen.sizes_problem:
        return unknown("ScalingReady", "ControllerUnknown", seen.sizes_problem)
    if seen.missing_kinds:
        message = f"the cluster does not serve {', '.join(seen.missing_kinds)}"
        return fails("ScalingReady", "KindMissing", message)
    return holds("ScalingReady", "CapacityFound", "no pod waits for a node")


def _speculation(service: Service, seen: Observed, drafter: Condition) -> Condition:
    kind = "SpeculationActive"
    if drafter.reason == "NotConfigured":
        return fails(kind, "NotConfigured", drafter.message)
    if seen.fleet is None:
        return unknown(kind, "FleetUnknown", _NOT_ASKED + seen.fleet_problem)
    drafters = [pool.unit(group) for pool, group in service.spec.units() if pool.role == "drafter"]
    if not any(seen.fleet.unit(unit).ready for unit in drafters):
        return fails(kind, "NoDrafterReady", "no drafter is ready: sessions decode plainly")
    reports = [seen.fleet.unit(unit) for unit in service.spec.verifier_units()]
    if all(report.drafting is False for report in reports):
        return fails(kind, "BudgetOff", "at the present load drafting does not pay")
    if not any(report.connected_drafters for report in reports):
        return fails(kind, "NotConnected", "no verifier is connected to a drafter")
    return holds(kind, "Drafting", "verifiers are connected to drafters")
