"""Handlers: kopf calls these; they look, ask the pure modules, and let ``hands`` write.

Path: an event or a timer -> look -> decide -> write what differs -> report.  Each call begins
from what is there, so an operator that was killed half-way goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import kopf
from kubernetes.dynamic.exceptions import ApiException

from dspark_operator import API_VERSION, GROUP, VERSION, names
from dspark_operator.document import Object, items, number, part, text
from dspark_operator.fleet import Answer
from dspark_operator.govern import bring_sizes, govern, is_available, tell_that_it_is_gone
from dspark_operator.hands import Hands, reason_of
from dspark_operator.look import key_of, of_component
from dspark_operator.manifests import certificates, ray
from dspark_operator.manifests.render import applicable, render
from dspark_operator.observed import Observed
from dspark_operator.pair import PairCheck, read_check
from dspark_operator.rollout import Step, StepKind, next_step
from dspark_operator.settings import drain_s, gateway_process
from dspark_operator.spec.parse import Service, SpecError, parse_service
from dspark_operator.status import broken_status, hindered_status, obstacle, status_of
from dspark_operator.switch import as_running, held_switch
from dspark_operator.teardown import Left, Stop, next_stop
from dspark_operator.trouble import failing, unhealthy, unschedulable
from dspark_operator.trust import problem_of

CERTIFICATE = f"{certificates.API_VERSION}/Certificate"
_SPARE_DRAIN_S = 300.0
_STOP_RETRIES = 2000  # two seconds apart: beyond the patience of any spec
_SERVICES = (GROUP, VERSION, "dsparkservices")
_POLICIES = (GROUP, VERSION, "verificationpolicies")


def register(registry: kopf.OperatorRegistry, *, period_s: float) -> None:
    """Tell kopf what to call, and when.

    Args:
        registry: Kopf's list of handlers.
        period_s: How often each service is looked at without an event.
    """
    on = kopf.on
    for event in (on.resume, on.create):
        event(*_SERVICES, registry=registry)(reconcile)
    on.update(*_SERVICES, field="spec", registry=registry)(reconcile)
    # Neither a finalizer nor a note in the object: what happens to one follows from a look.
    on.event(*_POLICIES, registry=registry)(policy)
    on.delete(*_SERVICES, retries=_STOP_RETRIES, registry=registry)(stop)
    kopf.timer(*_SERVICES, interval=period_s, initial_delay=period_s, registry=registry)(reconcile)


def reconcile(body: kopf.Body, patch: kopf.Patch, memo: kopf.Memo, **_: Any) -> None:
    """Bring one service closer to its spec, and say how far it is."""
    hands: Hands = memo.hands
    document = _plain(body)
    if text(document, "metadata", "deletionTimestamp"):
        return
    before = part(document, "status")
    with hands.lock(text(document, "metadata", "uid")):
        try:
            hands.look_around()
            service = parse_service(document)
            children = render(service, hands.release, hands.cluster)
        except SpecError as error:
            generation = number(document, "metadata", "generation") or 0
            status = broken_status(generation, "InvalidSpec", str(error), before, timestamp=_now())
        else:
            try:
                seen, running = _carry_out(hands, service, children, before)
                if is_available(seen.controller):
                    govern(hands, running)
                    seen = replace(seen, sizes_problem=bring_sizes(hands, running))
            except ApiException as error:
                told = reason_of(error)
                generation = number(document, "metadata", "generation") or 0
                status = hindered_status(generation, told, before, timestamp=_now())
                _report(hands, body, patch, before, status)
                raise kopf.TemporaryError(told, delay=5) from error
            status = status_of(service, seen, before, timestamp=_now())
    _report(hands, body, patch, before, status)


def stop(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Stop a deleted service in the order that cuts no stream; then let it go."""
    hands: Hands = memo.hands
    document = _plain(body)
    try:
        service = parse_service(document)
        patience_s = _patience_s(service)
    except SpecError:
        # It never came to life under this spec: whatever exists is collected by its owner.
        return
    eyes = hands.eyes
    with hands.lock(service.uid):
        gateway_name = names.child(service, names.GATEWAY)
        gateway = eyes.get("apps/v1", "Deployment", service.namespace, gateway_name)
        ray_service = eyes.get(ray.API_VERSION, "RayService", service.namespace, service.name)
        pods = eyes.pods(service)
        asked_at = datetime.fromisoformat(text(document, "metadata", "deletionTimestamp"))
        action, reason, message = next_stop(
            Left(
                gateway=gateway is not None,
                gateway_pods=len(of_component(pods, names.GATEWAY)),
                ray_service=ray_service is not None,
                ray_service_ending=bool(text(ray_service, "metadata", "deletionTimestamp")),
                engine_pods=len(of_component(pods, names.ENGINE, names.HEAD)),
                waited_s=(datetime.now(UTC) - asked_at).total_seconds(),
                patience_s=patience_s,
            )
        )
        if action is Stop.GATEWAY and gateway is not None:
            hands.delete(gateway)
        elif action is Stop.ENGINES and ray_service is not None:
            hands.delete(ray_service)
    if action is Stop.DONE:
        tell_that_it_is_gone(hands, service.namespace, service.name)
        hands.forget(service.uid)
    if action is not Stop.WAIT:
        hands.tell(body, type="Normal", reason=reason, message=message)
    if action is not Stop.DONE:
        raise kopf.TemporaryError(message, delay=2)


def policy(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Look after the policies of the service that a manifest speaks of, whatever happened to it."""
    hands: Hands = memo.hands
    namespace, name = text(body, "metadata", "namespace"), text(body, "spec", "serviceName")
    document = hands.eyes.get(API_VERSION, "DSparkService", namespace, name)
    if document is None or text(document, "metadata", "deletionTimestamp"):
        tell_that_it_is_gone(hands, namespace, name)
        return
    try:
        service = parse_service(document)
    except SpecError:
        return  # The service's own status says so; its policies wait for it.
    with hands.lock(service.uid):
        controller = names.child(service, names.CONTROLLER)
        if is_available(hands.eyes.get("apps/v1", "Deployment", namespace, controller)):
            govern(hands, service)


def _carry_out(
    hands: Hands, service: Service, children: list[Object], before: Object
) -> tuple[Observed, Service]:
    """Write what differs; return what was seen, and the service as its processes speak now."""
    eyes = hands.eyes
    *plain, desired_ray = children
    taken, missing = applicable(plain, hands.cluster)
    live = eyes.children(service, hands.cluster)
    live_ray = eyes.get(ray.API_VERSION, "RayService", service.namespace, service.name)
    pods = eyes.pods(service)
    first = of_component(taken, names.PAIR_CHECK)
    refused = hands.bring_about(service, first, live)
    jobs = [child for child in first if child["kind"] == "Job"]
    check = PairCheck()
    if jobs:
        check = read_check(jobs[0], live.get(key_of(jobs[0])), pods)
    left = len(of_component(pods, names.ENGINE, names.HEAD))
    at = ("Deployment", names.child(service, names.GATEWAY))
    gateway = live.get(at)
    (desired_gateway,) = [child for child in taken if key_of(child) == at]
    switch = held_switch(desired_gateway, gateway, live_ray, left)
    instead = _lacking(hands, service) or check.step or switch
    if instead is None:
        refused += hands.bring_about(service, [c for c in taken if c not in first], live)
        hands.prune(service, taken, live)
    if refused:
        step = Step(kind=StepKind.HOLD, reason="Refused", message="; ".join(refused))
    else:
        step = instead or _ray_step(hands, service, desired_ray, live_ray, left)
    controller = live.get(("Deployment", names.child(service, names.CONTROLLER)))
    trouble = unhealthy(live_ray) | failing(pods)
    why = trouble.get(names.CONTROLLER, "")
    running = service if switch is None else as_running(service, gateway, controller)
    routes = hands.routes(running) if gateway is not None else Answer(problem="no gateway")
    fleet = Answer(problem=f"no controller pod is available{why and f': {why}'}")
    if is_available(controller):
        fleet = hands.fleet(running)
    seen = Observed(
        step=step,
        ray_service=live_ray,
        gateway=gateway,
        controller=controller,
        routes=routes.fleet,
        routes_problem=routes.problem,
        fleet=fleet.fleet,
        fleet_problem=fleet.problem,
        unschedulable=unschedulable(pods),
        failing=trouble,
        missing_kinds=tuple(missing),
    )
    return _with_first_token(hands, running, seen, before), running


def _lacking(hands: Hands, service: Service) -> Step | None:
    """Return what holds a service back whose pods could not even start."""
    tls = service.spec.tls
    if tls is None:
        return None
    if tls.issuer_ref is not None and CERTIFICATE not in hands.cluster.kinds:
        message = f"spec.tls.issuerRef: the cluster does not serve {CERTIFICATE}: install it, or "
        message += "give spec.tls.secretName"
        return Step(kind=StepKind.HOLD, reason="CertManagerMissing", message=message)
    authority = hands.trust(service).authority
    problem = problem_of(authority) if authority else "not there, or without the key ca.crt"
    if not problem:
        return None
    where = f"spec.tls.authorityConfigMapName: ConfigMap {tls.authority_config_map_name}"
    return Step(kind=StepKind.HOLD, reason="AuthorityMissing", message=f"{where}: {problem}")


def _ray_step(
    hands: Hands, service: Service, desired: Object, live: Object | None, pods_left: int
) -> Step:
    if not hands.eyes.serves_ray():
        return Step(
            kind=StepKind.HOLD,
            reason="KubeRayMissing",
            message="the cluster does not serve ray.io/v1 RayService: install KubeRay",
        )
    step = next_step(desired, live, service.spec.update_strategy, pods_left=pods_left)
    if step.manifest is not None:
        hands.write(step.manifest, live)
    if live is not None and step.kind in (StepKind.NOTHING, StepKind.IN_PLACE):
        hands.patch_counts(step.manifest or live, live)
    return step


def _with_first_token(hands: Hands, service: Service, seen: Observed, before: Object) -> Observed:
    """Ask for a token where everything it needs is there; once for each spec and outage."""
    if obstacle(service, seen) is not None:
        return seen
    ready = [c for c in items(before, "conditions") if text(c, "type") == "Ready"]
    was_ready = bool(ready) and text(ready[0], "status") == "True"
    if was_ready and number(before, "observedGeneration") == service.generation:
        problem = ""
    else:
        model = service.spec.model.name
        problem = hands.ask_token(hands.url(service), model, hands.trust(service))
    return seen.with_first_token(problem)


def _report(
    hands: Hands, body: kopf.Body, patch: kopf.Patch, before: Object, status: Object
) -> None:
    """Write the status where it differs, and an event where its reasons do."""
    if status == before:
        return
    patch.status.update(status)
    old = {text(c, "type"): c for c in items(before, "conditions")}
    for condition in items(status, "conditions"):
        kind = text(condition, "type")
        if kind not in ("Ready", "Reconciling", "Stalled"):
            continue
        was = old.get(kind, {})
        if (text(was, "status"), text(was, "reason")) == (
            text(condition, "status"), text(condition, "reason"),
        ):  # fmt: skip
            continue
        if kind != "Ready" and text(condition, "status") != "True":
            continue
        if kind == "Ready" and text(condition, "reason") == "Creating":
            continue  # Nobody expected a new service to be ready.
        good = (kind == "Stalled") != (text(condition, "status") == "True")
        hands.tell(
            body,
            type="Normal" if good else "Warning",
            reason=text(condition, "reason"),
            message=text(condition, "message")[:1000],
        )


def _patience_s(service: Service) -> float:
    front = part(gateway_process(service), "gateway")
    streams_s = float(str(front["stop_grace_s"])) + float(str(front["drain_s"]))
    engines_s = max(drain_s(service, pool, group) for pool, group in service.spec.units())
    return streams_s + engines_s + _SPARE_DRAIN_S


def _plain(body: Mapping[str, Any]) -> Object:
    return {key: _copied(value) for key, value in body.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(entry) for entry in value]
    return value


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
