"""The controller as a process: start everything, wait for a stop, end everything in order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

import uvicorn
from prometheus_client import start_http_server

from dspark.config.controller import ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.controller.api.app import ControlApi
from dspark.controller.api.tokens import Tokens
from dspark.controller.loop import Controller
from dspark.controller.service import SERVICE_NAME, ControlService
from dspark.controller.store import open_store
from dspark.rpc.http import HttpServer, bind
from dspark.rpc.server import RpcServer
from dspark.telemetry import metrics
from dspark.wire.v1.control_pb2_grpc import add_ControlServiceServicer_to_server

log = logging.getLogger(__name__)

_GRACE_S = 0.5  # watch streams never end by themselves
_MAX_HTTP = 128  # connections and tasks of the control API; more are told 503


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
        with (
            _metrics_endpoint(settings) as metrics_port,
            bind(settings.api_host, settings.api_port, what="the control API") as api_socket,
        ):
            api = ControlApi(controller, Tokens(settings.api_tokens))
            address = await server.start()
            log.info(
                "controller at %s, metrics port %d, control API at http://%s:%d, term %d",
                address, metrics_port, *api_socket.getsockname()[:2], controller.term,
            )  # fmt: skip
            http = _http_server(api)
            serving = asyncio.create_task(http.serve(sockets=[api_socket]))
            ticking = asyncio.create_task(controller.run())
            try:
                await stop.wait()
            finally:
                log.info("controller stops")
                await server.drain()
                ticking.cancel()
                api.stopping.set()
                http.should_exit = True
                await asyncio.gather(ticking, serving, return_exceptions=True)
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


def _http_server(api: ControlApi) -> HttpServer:
    return HttpServer(
        uvicorn.Config(
            api.app(),
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_HTTP,
            timeout_graceful_shutdown=1,
        )
    )


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
