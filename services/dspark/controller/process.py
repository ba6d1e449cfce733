"""The controller as a process: start everything, wait for a stop, end everything in order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

from prometheus_client import start_http_server

from dspark.config.controller import ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.controller.loop import Controller
from dspark.controller.service import SERVICE_NAME, ControlService
from dspark.controller.store import open_store
from dspark.rpc.server import RpcServer
from dspark.telemetry import metrics
from dspark.wire.v1.control_pb2_grpc import add_ControlServiceServicer_to_server

log = logging.getLogger(__name__)

_GRACE_S = 0.5  # watch streams never end by themselves


async def serve(settings: ControllerSettings, stop: asyncio.Event) -> None:
    """Run the controller until ``stop`` is set.

    Raises:
        ValueError: The store or a port cannot be had; the message says which.
    """
    store = open_store(settings.store)
    with contextlib.closing(store):
        controller = Controller(settings, store)
        server = RpcServer(
            EndpointSettings(
                bind_host=settings.host,
                advertise_host=settings.host,
                port_min=settings.port,
                port_max=settings.port,
            ),
            [SERVICE_NAME],
        )
        service = ControlService(controller, settings)
        server.add(lambda target: add_ControlServiceServicer_to_server(service, target))
        with _metrics_endpoint(settings) as metrics_port:
            address = await server.start()
            log.info(
                "controller at %s, metrics port %d, term %d", address, metrics_port, controller.term
            )
            ticking = asyncio.create_task(controller.run())
            try:
                await stop.wait()
            finally:
                log.info("controller stops")
                await server.drain()
                ticking.cancel()
                await asyncio.gather(ticking, return_exceptions=True)
                await server.stop(_GRACE_S)


def run(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT."""

    async def until_signalled() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(settings, stop)

    asyncio.run(until_signalled())


@contextlib.contextmanager
def _metrics_endpoint(settings: ControllerSettings) -> Iterator[int]:
    metrics.BUILD_INFO.info({"role": "controller", "replica": "controller"})
    try:
        http, thread = start_http_server(
            settings.metrics_port, addr=settings.host, registry=metrics.REGISTRY
        )
    except OSError as error:
        raise ValueError(f"metrics port {settings.metrics_port}: {error.strerror}") from None
    try:
        yield http.server_port
    finally:
        http.shutdown()
        http.server_close()
        thread.join(timeout=2.0)
