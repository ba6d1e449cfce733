"""The process: bind, serve, and stop in order.

After a stop signal: not ready, a grace in which load balancers notice, then no new connections;
open streams may finish within the drain, and are then told; the process ends with status 0.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from dspark.config.gateway import GatewaySettings
from dspark.core.fleet import Role
from dspark.gateway.fleet import FleetView
from dspark.gateway.http import Gateway
from dspark.gateway.served_model import ServedModel
from dspark.gateway.sessions import Sessions
from dspark.gateway.verifiers import GrpcVerifiers
from dspark.rpc.credentials import open_credentials
from dspark.rpc.http import HttpServer
from dspark.rpc.https import server_context

log = logging.getLogger(__name__)

_LAST_WORDS_S = 2.0
"""For streams to send their last event once the drain is over."""


async def serve(settings: GatewaySettings, model: ServedModel, sock: socket.socket) -> None:
    """Serve on a bound socket until SIGTERM or SIGINT.

    Raises:
        ValueError: A file of TLS is not as it should be; the message says which and why.
    """
    host, port = sock.getsockname()[:2]
    credentials = open_credentials(settings.tls)
    shown = settings.served_with()
    context = None if shown is None else server_context(shown)
    view = FleetView(
        settings.controller,
        watcher=f"gateway-{host}-{port}-{os.getpid()}",
        file=settings.fleet_file,
        credentials=credentials,
    )
    verifiers = GrpcVerifiers(credentials)
    sessions = Sessions(
        fleet=view.fleet,
        verifiers=verifiers,
        failover_attempts=settings.failover_attempts,
        wait_for_verifier_s=settings.wait_for_verifier_s,
    )
    gateway = Gateway(settings=settings, model=model, sessions=sessions, fleet=view.fleet)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        view.start()
        tidying = asyncio.create_task(_tidy(view, verifiers))
        yield
        tidying.cancel()
        await asyncio.gather(tidying, return_exceptions=True)
        await view.close()
        await verifiers.close()

    server = HttpServer(
        uvicorn.Config(
            gateway.app(lifespan),
            ssl_context_factory=None if context is None else lambda *_: context,
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=round(settings.drain_s + _LAST_WORDS_S + 0.5),
        )
    )
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    stopper = asyncio.create_task(_stop(asked_to_stop, gateway, server, settings))
    scheme = "http" if context is None else "https"
    log.info("serving %s at %s://%s:%d", model.name, scheme, host, port)
    try:
        await server.serve(sockets=[sock])
    finally:
        stopper.cancel()
        await asyncio.gather(stopper, return_exceptions=True)


async def _stop(
    asked: asyncio.Event, gateway: Gateway, server: uvicorn.Server, settings: GatewaySettings
) -> None:
    await asked.wait()
    log.info("stopping: %d requests in flight", gateway.in_flight)
    gateway.draining = True
    await asyncio.sleep(settings.stop_grace_s)
    server.should_exit = True
    await asyncio.sleep(settings.drain_s)
    gateway.stopping.set()


async def _tidy(view: FleetView, verifiers: GrpcVerifiers) -> None:
    """Close channels to verifiers that left the fleet."""
    async for fleet in view.fleet.watch():
        with contextlib.suppress(OSError):
            await verifiers.keep(
                {m.replica.address for m in fleet.members if m.replica.role is Role.VERIFIER}
            )
