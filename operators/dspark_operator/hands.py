"""Hands: the only file that writes to the cluster.

Writes are server-side applies under one field manager, deletions, two JSON patches, and the
status of a VerificationPolicy.  Only the status and the finalizer of a DSparkService are written
elsewhere, by kopf, as ``handlers`` tell it.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import kopf
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ApiException, NotFoundError

from dspark_operator import API_VERSION, names
from dspark_operator.ask import ask_routes, ask_token
from dspark_operator.control import ControlApi
from dspark_operator.control_key import token_of
from dspark_operator.document import Object, text
from dspark_operator.drift import changed_list, drift, other_strategy
from dspark_operator.fleet import Answer, believed
from dspark_operator.look import Eyes, Key, ask_cluster, key_of, unwanted
from dspark_operator.manifests import ray
from dspark_operator.manifests.objects import Cluster, Release
from dspark_operator.rollout import count_patch
from dspark_operator.spec.parse import Service
from dspark_operator.trust import NOBODY, Trust

log = logging.getLogger(__name__)

_LOOK_AROUND_S = 60.0
_REFUSALS = (400, 403, 409, 422)
"""Answers that say no to one object; any other failure is tried again."""


@dataclass(slots=True, kw_only=True)
class Hands:
    """What the handlers work with.

    Attributes:
        client: The API server.
        cluster: What it can take, as last looked at.
        release: What the operator was installed with.
        gateway_url: Where gateways are reached, with ``{service}`` and ``{namespace}``; "": by
            their Services.
        control_url: Where control APIs are reached, likewise.
        ask_routes: Asks a gateway, by its base URL, for what it can route to.
        ask_token: Asks a gateway for one token of a model; "" when it came.
        ask_cluster: Asks the API server what it can take.
        clock: Seconds that only grow.
        tell: Posts an event of an object: (object, type=, reason=, message=).
    """

    client: DynamicClient
    cluster: Cluster
    release: Release
    gateway_url: str = ""
    control_url: str = ""
    ask_routes: Callable[[str, Trust], Answer] = ask_routes
    ask_token: Callable[[str, str, Trust], str] = ask_token
    tell: Callable[..., None] = kopf.event
    ask_cluster: Callable[[DynamicClient], Cluster] = ask_cluster
    clock: Callable[[], float] = time.monotonic
    _looked_s: float | None = None
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _answers: dict[str, Answer] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)

    @property
    def eyes(self) -> Eyes:
        """What reads the same API server."""
        return Eyes(self.client)

    def look_around(self) -> None:
        """See now and then what the cluster can take: CRDs come and go, and so do versions."""
        now_s = self.clock()
        if self._looked_s is None:
            self._looked_s = now_s  # what we were made with is fresh
        if now_s - self._looked_s < _LOOK_AROUND_S:
            return
        self._looked_s = now_s
        try:
            found = self.ask_cluster(self.client)
        except ApiException as error:
            log.warning("what the cluster serves cannot be asked: %s", reason_of(error))
            return
        if found != self.cluster:
            log.info("the cluster serves %s", ", ".join(sorted(found.kinds)))
        self.cluster = found

    def lock(self, uid: str) -> threading.Lock:
        """Return the lock of one service: a timer and an edit never work on it at once."""
        return self._locks.setdefault(uid, threading.Lock())

    def url(self, service: Service) -> str:
        """Return where the service's gateway is reached from here."""
        template = self.gateway_url or names.gateway_url(service)
        return template.format(service=service.name, namespace=service.namespace)

    def control(self, service: Service) -> ControlApi:
        """Return the service's control API."""
        template = self.control_url or names.control_url(service)
        url = template.format(service=service.name, namespace=service.namespace)
        token = token_of(self.release.control_key, service)
        return ControlApi(url=url, token=token, trust=self.trust(service))

    def trust(self, service: Service) -> Trust:
        """Return whom to believe to be the service: read anew, as it may be replaced."""
        tls = service.spec.tls
        if tls is None:
            return NOBODY
        name = tls.authority_config_map_name
        found = self.eyes.get("v1", "ConfigMap", service.namespace, name)
        return Trust(authority=text(found, "data", "ca.crt"))

    def routes(self, service: Service) -> Answer:
        """Ask a gateway; where one question stays without an answer, the last one counts."""
        answer = self.ask_routes(self.url(service), self.trust(service))
        return self._believed(f"{service.uid}/routes", answer)

    def fleet(self, service: Service) -> Answer:
        """Ask the controller that leads, likewise."""
        return self._believed(f"{service.uid}/fleet", self.control(service).fleet())

    def _believed(self, what: str, answer: Answer) -> Answer:
        last = self._answers.get(what, Answer())
        self._answers[what] = answer
        return believed(answer, last)

    def lost_before(self, what: str, *, lost: bool) -> bool:
        """Say whether something was asked in vain at the look before, and note this look.

        Args:
            what: Begins with the service's uid.
            lost: It is asked in vain now.
        """
        before = what in self._lost
        (self._lost.add if lost else self._lost.discard)(what)
        return before

    def forget(self, uid: str) -> None:
        """Forget a service that is gone."""
        self._answers = {
            what: answer for what, answer in self._answers.items() if not what.startswith(uid)
        }
        self._lost = {what for what in self._lost if not what.startswith(uid)}
        self._locks.pop(uid, None)

    def bring_about(
        self, service: Service, desired: list[Object], live: dict[Key, Object]
    ) -> list[str]:
        """Write the children that differ; return the refusals."""
        refused = []
        for child in desired:
            current = live.get(key_of(child))
            why = "it does not exist" if current is None else drift(child, current)
            # A Job cannot be changed once it is there.
            if why is None or (current is not None and child["kind"] == "Job"):
                continue
            log.info("%s/%s: applying %s %s: %s", service.namespace, service.name,
                     *key_of(child), why)  # fmt: skip
            try:
                if current is not None and other_strategy(child, current):
                    self.delete(current)
                    current = None
                self.write(child, current)
            except ApiException as error:
                if error.status not in _REFUSALS:
                    raise
                refused.append(f"{' '.join(key_of(child))}: {reason_of(error)}")
        return refused

    def prune(self, service: Service, desired: list[Object], live: dict[Key, Object]) -> None:
        """Delete the children that are no longer wanted."""
        for child in unwanted(live, desired, service.uid):
            self.delete(child)

    def write(self, manifest: Object, live: Object | None) -> None:
        """Write one object: applied, or where others changed a list of it, that list restored."""
        restored = None if live is None else changed_list(manifest, live)
        if restored is None:
            self._apply(manifest)
            return
        kind = self.client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        kind.patch(
            name=text(manifest, "metadata", "name"),
            namespace=text(manifest, "metadata", "namespace"),
            body=[{"op": "add", "path": restored[0], "value": restored[1]}],
            content_type="application/json-patch+json",
        )

    def _apply(self, manifest: Object) -> None:
        kind = self.client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        self.client.server_side_apply(
            kind, body=manifest, field_manager=names.FIELD_MANAGER, force_conflicts=True
        )

    def delete(self, manifest: Object) -> None:
        """Delete one object; what it owns goes in the background."""
        kind = self.client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        try:
            kind.delete(
                name=text(manifest, "metadata", "name"),
                namespace=text(manifest, "metadata", "namespace"),
                body={"propagationPolicy": "Background"},
            )
        except NotFoundError:
            log.debug("%s was gone already", key_of(manifest))

    def report_policy(self, policy: Object, status: Object) -> None:
        """Write the status of a VerificationPolicy."""
        kind = self.client.resources.get(api_version=API_VERSION, kind="VerificationPolicy")
        try:
            kind.status.patch(
                name=text(policy, "metadata", "name"),
                namespace=text(policy, "metadata", "namespace"),
                body={"status": status},
                content_type="application/merge-patch+json",
            )
        except NotFoundError:
            log.debug("%s was gone already", key_of(policy))

    def patch_counts(self, merged: Object, live: Object) -> None:
        """Give the running Ray cluster the bounds of its groups."""
        name = text(live, "status", "activeServiceStatus", "rayClusterName")
        namespace = text(live, "metadata", "namespace")
        cluster = self.eyes.get(ray.API_VERSION, "RayCluster", namespace, name) if name else None
        patch = count_patch(merged, cluster) if cluster is not None else []
        if patch:
            kind = self.client.resources.get(api_version=ray.API_VERSION, kind="RayCluster")
            kind.patch(
                name=name,
                namespace=namespace,
                body=patch,
                content_type="application/json-patch+json",
            )


def reason_of(error: ApiException) -> str:
    """Return what the API server said, in one line."""
    try:
        told = text(json.loads(error.body or ""), "message")
    except (TypeError, ValueError):
        told = ""
    return told or str(error.reason)
