"""Handlers: the only file that writes to the cluster.

Path: an event or a timer -> look -> decide (pure) -> apply what differs -> report.  Everything is
idempotent and begins from what is there, so an operator that was killed half-way goes on where it
was.  Writes are server-side applies under one field manager; a child that already holds what is
asked for is not written.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kopf
from kubernetes.client import ApiClient
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ApiException, NotFoundError

from dspark_operator import API_VERSION, names
from dspark_operator.ask import Answer, ask_fleet, ask_token
from dspark_operator.document import Object, items, part, text
from dspark_operator.drift import drift
from dspark_operator.look import Eyes, key_of, of_component, unschedulable, unwanted
from dspark_operator.manifests import ray
from dspark_operator.manifests.objects import Cluster, Release
from dspark_operator.manifests.render import applicable, render
from dspark_operator.rollout import Step, StepKind, count_patch, next_step
from dspark_operator.settings import gateway_process
from dspark_operator.spec.parse import Service, SpecError, parse_service
from dspark_operator.status import Observed, broken_status, conditions_of, status_of
from dspark_operator.teardown import Left, Stop, next_stop

log = logging.getLogger(__name__)

PERIOD_S = 15.0
_SLOWEST_DRAIN_S = 600.0


@dataclass(slots=True, kw_only=True)
class Hands:
    """What the handlers work with.

    Attributes:
        client: The API server.
        cluster: What it can take.
        release: What the operator was installed with.
        gateway_url: Where gateways are reached, with ``{service}`` and ``{namespace}``; "": by
            their Services.
    """

    client: DynamicClient
    cluster: Cluster
    release: Release
    gateway_url: str = ""

    def __post_init__(self) -> None:
        self.eyes = Eyes(self.client)
        self._locks: dict[str, threading.Lock] = {}

    def lock(self, uid: str) -> threading.Lock:
        """Return the lock of one service: a timer and an edit never work on it at once."""
        return self._locks.setdefault(uid, threading.Lock())

    def url(self, service: Service) -> str:
        """Return where the service's gateway is reached from here."""
        template = self.gateway_url or names.gateway_url(service)
        return template.format(service=service.name, namespace=service.namespace)

    def apply(self, manifest: Object) -> None:
        """Write one object under our field manager."""
        kind = self.client.resources.get(
            api_version=manifest["apiVersion"], kind=manifest["kind"]
        )
        self.client.server_side_apply(
            kind, body=manifest, field_manager=names.FIELD_MANAGER, force_conflicts=True
        )

    def delete(self, manifest: Object) -> None:
        """Delete one object, its own children in the background."""
        kind = self.client.resources.get(
            api_version=manifest["apiVersion"], kind=manifest["kind"]
        )
        try:
            kind.delete(
                name=text(manifest, "metadata", "name"),
                namespace=text(manifest, "metadata", "namespace"),
                body={"propagationPolicy": "Background"},
            )
        except NotFoundError:
            log.debug("%s was gone already", key_of(manifest))

    def patch_counts(self, merged: Object, live: Object) -> None:
        """Give the running Ray cluster the bounds of its groups."""
        name = text(live, "status", "activeServiceStatus", "rayClusterName")
        namespace = text(live, "metadata", "namespace")
        cluster = self.eyes.get(ray.API_VERSION, "RayCluster", namespace, name) if name else None
        patch = count_patch(merged, cluster) if cluster is not None else []
        if patch:
            kind = self.client.resources.get(api_version=ray.API_VERSION, kind="RayCluster")
            kind.patch(
                name=name, namespace=namespace, body=patch,
                content_type="application/json-patch+json",
            )  # fmt: skip


def connect(release: Release, gateway_url: str) -> Hands:
    """Return hands on the cluster that the environment points to."""
    client = DynamicClient(ApiClient())
    return Hands(
        client=client, cluster=Eyes(client).cluster(), release=release, gateway_url=gateway_url
    )


@kopf.on.resume(API_VERSION, "dsparkservices")
@kopf.on.create(API_VERSION, "dsparkservices")
@kopf.on.update(API_VERSION, "dsparkservices", field="spec")
@kopf.timer(API_VERSION, "dsparkservices", interval=PERIOD_S, initial_delay=PERIOD_S)
def reconcile(body: kopf.Body, patch: kopf.Patch, memo: kopf.Memo, **_: Any) -> None:
    """Bring one service closer to its spec, and say how far it is."""
    hands: Hands = memo.hands
    with hands.lock(str(body.metadata.uid)):
        _reconcile(hands, dict(body), body, patch)


def _reconcile(hands: Hands, document: Object, body: kopf.Body, patch: kopf.Patch) -> None:
    before = part(document, "status")
    timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        service = parse_service(document)
        children = render(service, hands.release, hands.cluster)
    except SpecError as error:
        generation = int(body.metadata.get("generation", 0))
        status = broken_status(
            generation, "InvalidSpec", str(error), before, timestamp=timestamp
        )
        _report(body, patch, before, status)
        return
    try:
        seen = _carry_out(hands, service, children, before)
    except ApiException as error:
        raise kopf.TemporaryError(f"{error.status} {error.reason}", delay=5) from error
    status = status_of(service, seen, before, timestamp=timestamp)
    _report(body, patch, before, status)


def _carry_out(
    hands: Hands, service: Service, children: list[Object], before: Object
) -> Observed:
    """Apply what differs and return what was seen."""
    *plain, desired_ray = children
    taken, missing = applicable(plain, hands.cluster)
    live = hands.eyes.children(service, hands.cluster)
    refused = []
    for child in taken:
        current = live.get(key_of(child))
        if current is not None and drift(child, current) is None:
            continue
        try:
            hands.apply(child)
        except ApiException as error:
            if error.status not in (400, 403, 409, 422):
                raise
            refused.append(f"{' '.join(key_of(child))}: {text(error.body_json, 'message')}"
                           if hasattr(error, "body_json") else f"{key_of(child)}: {error.reason}")
    for child in unwanted(live, taken, service.uid):
        hands.delete(child)
    live_ray = hands.eyes.get(
        ray.API_VERSION, "RayService", service.namespace, service.name
    )
    step = _ray_step(hands, service, desired_ray, live_ray)
    if refused:
        step = Step(kind=StepKind.HOLD, reason="Refused", message="; ".join(refused))
    return _observe(hands, service, step, live_ray, live, missing, before)


def _ray_step(
    hands: Hands, service: Service, desired: Object, live: Object | None
) -> Step:
    if not hands.eyes.serves_ray():
        return Step(
            kind=StepKind.HOLD,
            reason="KubeRayMissing",
            message="the cluster does not serve ray.io/v1 RayService: install KubeRay",
        )
    step = next_step(desired, live, service.spec.update_strategy)
    if step.manifest is not None:
        hands.apply(step.manifest)
    if live is not None and step.kind in (StepKind.NOTHING, StepKind.IN_PLACE):
        hands.patch_counts(step.manifest or live, live)
    return step
