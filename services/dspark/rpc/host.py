"""What every replica has around its engine: server, metrics endpoint, link to the controller."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace

from dspark.config.endpoint import EndpointSettings
from dspark.config.tls import https_of
from dspark.core.curve import Curve
from dspark.core.fleet import Compatibility, LoadReport, Replica, ReplicaState, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName
from dspark.rpc.control_client import ControllerLink
from dspark.rpc.credentials import open_credentials
from dspark.rpc.https import server_context
from dspark.rpc.server import RpcServer
from dspark.telemetry import logs, metrics, tracing
from dspark.telemetry.endpoint import serve_metrics

_NOWHERE = "127.0.0.1:9"
"""Where the link of a replica without a controller would lead, were it ever used."""


def new_incarnation() -> Incarnation:
    """Draw the number that tells this process from its predecessor."""
    return Incarnation(secrets.randbits(63) | 1)


class ReplicaHost:
    """Start the server, announce, drain, leave: in this order, each once.

    Raises:
        ValueError: A file of TLS is not as it should be; the message says which and why.
    """

    def __init__(
        self, endpoint: EndpointSettings, *, role: Role, pool: str, name: str, service: str
    ) -> None:
        self._endpoint = endpoint
        self._role = role
        self._pool = PoolName(pool)
        self._name = ReplicaName(name)
        self.incarnation = new_incarnation()
        self.credentials = open_credentials(endpoint.tls)
        """What this process shows to others; None: plaintext."""
        self.server = RpcServer(endpoint, [service], self.credentials)
        self.link = ControllerLink(
            endpoint.controller or _NOWHERE,
            watcher=name,
            credentials=self.credentials,
            call_timeout_s=endpoint.call_timeout_s,
        )
        self._replica: Replica | None = None
        self._stop_metrics: Callable[[], None] | None = None

    @property
    def state(self) -> ReplicaState:
        """How far this replica is."""
        return ReplicaState.STARTING if self._replica is None else self._replica.state

    @property
    def address(self) -> str:
        """Where it is reached; "" before it is announced."""
        return "" if self._replica is None else self._replica.address

    @property
    def name(self) -> ReplicaName:
        """The replica's name in the fleet."""
        return self._name

    async def announce(
        self, compatibility: Compatibility, report: Callable[[], LoadReport], curve: Curve | None
    ) -> None:
        """Serve, then tell the controller, if there is one; the replica takes work from here on."""
        logs.start(self._role.value, self._name, hosted=True)
        tracing.start(self._role.value, self._name)
        address = await self.server.start()
        metrics_address = ""
        if self._endpoint.metrics:
            metrics.BUILD_INFO.info({"role": self._role.value, "replica": self._name})
            shown = https_of("metrics", self._endpoint.tls)
            port, self._stop_metrics = serve_metrics(
                self._endpoint.bind_host,
                self._endpoint.metrics_port_min,
                self._endpoint.metrics_port_max,
                context=None if shown is None else server_context(shown),
            )
            metrics_address = f"{self._endpoint.advertise_host}:{port}"
        self._replica = Replica(
            name=self._name,
            pool=self._pool,
            role=self._role,
            address=address,
            incarnation=self.incarnation,
            state=ReplicaState.READY,
            compatibility=compatibility,
            curve=curve,
            metrics_address=metrics_address,
            pid=os.getpid(),
            node=socket.gethostname(),
        )
        if self._endpoint.controller:
            self.link.start_announcing(self._replica, report)

    async def drain(self, idle: Callable[[], bool], timeout_s: float) -> None:
        """Stop being chosen (health and fleet say so), then wait for ``idle`` or the time-out."""
        await self.server.drain()
        if self._replica is not None:
            self._replica = replace(self._replica, state=ReplicaState.DRAINING)
            self.link.update(self._replica)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # The engine's thread counts sessions; polling is cheaper than waking this loop each time.
        while not idle() and loop.time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def leave(self, grace_s: float) -> None:
        """Unregister, cancel what still runs after ``grace_s``, free the ports."""
        await self.link.unregister()
        await self.link.close()
        await self.server.stop(grace_s)
        if self._stop_metrics is not None:
            self._stop_metrics()
        if tracing.started():
            await asyncio.to_thread(tracing.flush)
