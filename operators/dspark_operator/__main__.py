"""``python -m dspark_operator``: wait for the lease, then reconcile until a signal."""

import argparse
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kopf
from kubernetes import config
from kubernetes.client import ApiClient
from kubernetes.dynamic import DynamicClient
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from dspark_operator import GROUP, handlers, names
from dspark_operator.control_key import read_key
from dspark_operator.hands import Hands
from dspark_operator.look import ask_cluster
from dspark_operator.manifests.objects import Release

log = logging.getLogger(__name__)

_LEASE_S = 15
_RENEW_S = 10
_RETRY_S = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT, or until the lease is lost (then exit with status 1)."""
    given = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # One says at every renewal that it has the lease, the other that it has looked at a service.
    for chatty in ("leaderelection", "kopf.objects"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        key = read_key(given.control_key_file.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"--control-key-file {given.control_key_file}: {error}") from None
    _serve_health(given.health_port)
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    _lead(given.lease_namespace)
    client = DynamicClient(ApiClient())
    hands = Hands(
        client=client,
        cluster=ask_cluster(client),
        release=Release(
            engine_image=given.engine_image,
            server_image=given.server_image,
            namespace=given.lease_namespace,
            control_key=key,
        ),
        gateway_url=given.gateway_url,
        control_url=given.control_url,
    )
    registry = kopf.OperatorRegistry()
    # A registry of one's own knows no way in.
    kopf.on.login(registry=registry)(_log_in)
    handlers.register(registry, period_s=given.period_s)
    settings = _settings(cluster_wide=not given.namespace)
    kopf.run(
        registry=registry,
        settings=settings,
        memo=kopf.Memo(hands=hands),
        namespaces=given.namespace,
        clusterwide=not given.namespace,
        standalone=True,
    )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dspark_operator", description=__doc__)
    add = parser.add_argument
    add("--namespace", action="append", default=[], help="watch this one; none: all of them")
    add("--lease-namespace", required=True, help="where the leader's Lease is kept")
    add("--engine-image", required=True, help="for services that name none")
    add("--server-image", required=True, help="for services that name none")
    add("--period-s", type=float, default=15.0, help="how often each service is looked at")
    add("--health-port", type=int, default=8080, help="/healthz; 0 for none")
    add("--control-key-file", required=True, type=Path, help="secret that tokens are derived from")
    add("--control-url", default="", help="like --gateway-url, for control APIs")
    add("--gateway-url", default="", help="instead of Services: http://host/{namespace}/{service}")
    return parser.parse_args(arguments)


def _settings(*, cluster_wide: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = names.FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.posting.loggers = False
    settings.posting.reporting_component = names.FIELD_MANAGER
    settings.execution.max_workers = 8
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    # With rights in single namespaces only, CRDs and namespaces cannot be watched.
    settings.scanning.disabled = not cluster_wide
    return settings


def _log_in(**known: Any) -> kopf.ConnectionInfo | None:
    """Return how kopf's own client reaches the API server; asked again when a token has expired."""
    return kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)


def _lead(namespace: str) -> None:
    """Return once this process is the leader; end the process when it no longer is."""
    identity = f"{socket.gethostname()}-{os.getpid()}"
    election = leaderelection.LeaderElection(
        electionconfig.Config(
            LeaseLock(names.FIELD_MANAGER, namespace, identity),
            lease_duration=_LEASE_S,
            renew_deadline=_RENEW_S,
            retry_period=_RETRY_S,
            onstarted_leading=lambda: None,
            onstopped_leading=lambda: None,
        )
    )
    # A standby waits in a call that knows nothing of signals.
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    election.acquire()
    signal.signal(signal.SIGTERM, before)
    log.info("leading as %s", identity)

    def keep() -> None:
        election.renew_loop()
        log.error("the lease is lost: another operator may be at work")
        os._exit(1)

    threading.Thread(target=keep, name="lease", daemon=True).start()


def _serve_health(port: int) -> None:
    """Answer ``/healthz`` as long as the process lives, leader or not."""
    if port == 0:
        return

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Probes are not worth a line."""

    server = ThreadingHTTPServer(("", port), Health)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()


if __name__ == "__main__":
    main()
