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
from dspark.rpc.http import HttpServer

log = logging.getLogger(__name__)

_LAST_WORDS_S = 2.0
"""For streams to send their last event once the drain is over."""


async def serve(settings: GatewaySettings, model: ServedModel, sock: socket.socket) -> None:
    """Serve on a bound socket until SIGTERM or SIGINT."""
    host, port = sock.getsockname()[:2]
    view = FleetView(
        settings.controller,
        watcher=f"gateway-{host}-{port}-{os.getpid()}",
        file=settings.fleet_file,
    )
    verifiers = GrpcVerifiers()
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
    log.info("serving %s at http://%s:%d", model.name, host, port)
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
