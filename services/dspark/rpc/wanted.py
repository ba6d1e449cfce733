"""The controller's wish for one pool, kept by a thread for callers that must not wait."""

import logging
import threading
import time
import weakref

import grpc

from dspark.rpc.channel import open_blocking_channel
from dspark.rpc.credentials import Credentials
from dspark.rpc.tls_problem import explained
from dspark.wire.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class WantedReplicas:
    """Follows ``Fleet.pools[pool].wanted_replicas``; reading it never blocks.

    For a synchronous caller in a foreign event loop (an autoscaler's decision).  The thread ends
    by itself soon after the object is dropped.
    """

    def __init__(self, controller: str, pool: str, credentials: Credentials | None = None) -> None:
        self._newest: int | None = None
        threading.Thread(
            target=_follow,
            args=(weakref.ref(self), controller, pool, credentials),
            name=f"wanted-{pool}",
            daemon=True,
        ).start()

    @property
    def newest(self) -> int | None:
        """The last wish heard, or None while the controller is unreachable or has none."""
        return self._newest

    def set(self, wanted: int | None) -> None:
        """Called by the following thread."""
        self._newest = wanted


def _follow(
    holder: "weakref.ref[WantedReplicas]",
    controller: str,
    pool: str,
    credentials: Credentials | None,
) -> None:
    request = control_pb2.WatchFleetRequest(watcher=f"autoscaler-{pool}", brief=True)
    tls = None if credentials is None else credentials.settings
    while holder() is not None:
        # A channel for each attempt: it shows the certificate that it was opened with.
        with open_blocking_channel(controller, credentials) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            try:
                for fleet in stub.WatchFleet(request):
                    wishes = {entry.name: entry.wanted_replicas for entry in fleet.pools}
                    if not _tell(holder, wishes.get(pool)):
                        return
            except grpc.RpcError as error:
                why = explained(error.details() or "", tls)
                log.info("wish for %s not to be had: %s", pool, why)
        _tell(holder, None)
        time.sleep(_RETRY_S)


def _tell(holder: "weakref.ref[WantedReplicas]", wanted: int | None) -> bool:
    """Hand ``wanted`` over; return whether anybody still listens."""
    target = holder()
    if target is not None:
        target.set(wanted)
    return target is not None
