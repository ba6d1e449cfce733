"""The controller as a process: start everything, wait for a stop, end everything in order."""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import ssl
from collections.abc import Coroutine, Iterator

import uvicorn

from dspark.config.controller import ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.config.tls import https_of
from dspark.controller.api.app import ControlApi
from dspark.controller.api.service import SERVICE_NAME as API_SERVICE_NAME
from dspark.controller.api.service import ControlApiService
from dspark.controller.api.tokens import Tokens
from dspark.controller.leadership import become_leader, hold_leadership
from dspark.controller.loop import Controller
from dspark.controller.open_store import open_store
from dspark.controller.service import SERVICE_NAME, ControlService, add_control_service
from dspark.controller.store import Store, StoreLost
from dspark.rpc.credentials import Credentials, open_credentials
from dspark.rpc.http import HttpServer, bind
from dspark.rpc.https import server_context
from dspark.rpc.server import RpcServer
from dspark.telemetry import metrics
from dspark.telemetry.endpoint import serve_metrics
from dspark.wire.v1.control_api_pb2_grpc import add_ControlApiServiceServicer_to_server

log = logging.getLogger(__name__)

_GRACE_S = 0.5  # watch streams never end by themselves
_MAX_HTTP = 128  # connections and tasks of the control API; more are told 503


async def serve(settings: ControllerSettings, stop: asyncio.Event) -> None:
    """Run the controller until ``stop`` is set: as a standby first, where another one leads.

    Raises:
        ValueError: The store, a port or a file of TLS cannot be had; the message says which.
        Deposed: Another controller leads now.
    """
    credentials = open_credentials(settings.tls)
    shown = settings.api_served_with()
    context = None if shown is None else server_context(shown)
    scheme = "http" if context is None else "https"
    with (
        _metrics_endpoint(settings) as metrics_port,
        bind(settings.api_host, settings.api_port, what="the control API") as api_socket,
        contextlib.closing(_open_store(settings, _url(scheme, api_socket))) as store,
    ):
        controller = Controller(settings, store, leading=False)
        api = ControlApi(controller, Tokens(settings.api_tokens))
        http = _http_server(api, context)
        serving = asyncio.create_task(http.serve(sockets=[api_socket]))
        log.info("metrics port %d, control API at %s", metrics_port, _url(scheme, api_socket))
        stopped = asyncio.create_task(stop.wait())
        try:
            await _first(stopped, become_leader(store, controller, settings.leader_lease_s))
            if not stop.is_set():
                await _lead(settings, controller, store, api, stopped, credentials)
        finally:
            log.info("controller stops")
            api.stopping.set()
            http.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            stopped.cancel()
            with contextlib.suppress(StoreLost):
                store.leave()


async def _lead(
    settings: ControllerSettings,
    controller: Controller,
    store: Store,
    api: ControlApi,
    stopped: asyncio.Task[bool],
    credentials: Credentials | None,
) -> None:
    """Serve replicas until stopped.

    Only a leader listens: whoever has several addresses finds it by trying them.
    """
    server = RpcServer(
        EndpointSettings(
            bind_host=settings.host,
            advertise_host=settings.host,
            port_min=settings.port,
            port_max=settings.port,
        ),
        [SERVICE_NAME, API_SERVICE_NAME],
        credentials,
    )
    service = ControlService(controller, settings)
    server.add(lambda target: add_control_service(service, target))
    twin = ControlApiService(api, controller.events)
    server.add(lambda target: add_ControlApiServiceServicer_to_server(twin, target))
    address = await server.start()
    log.info("controller at %s, term %d", address, controller.term)
    own = [asyncio.create_task(work) for work in (controller.run(), api.trend.run(controller))]
    try:
        await _first(stopped, hold_leadership(store, controller, settings.leader_lease_s))
    finally:
        await server.drain()
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        await server.stop(_GRACE_S)


async def _first(stopped: asyncio.Task[bool], work: Coroutine[None, None, None]) -> None:
    """Run ``work`` until it ends or the stop comes; raise what it raises."""
    task = asyncio.create_task(work)
    await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _open_store(settings: ControllerSettings, api_url: str) -> Store:
    owner = {
        "id": secrets.token_hex(8),
        "address": f"{settings.host}:{settings.port}",
        "api": api_url,
    }
    return open_store(settings.store, owner=owner, prefix=settings.store_prefix)


def _url(scheme: str, sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT."""

    async def until_signalled() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(settings, stop)

    asyncio.run(until_signalled())


def _http_server(api: ControlApi, context: ssl.SSLContext | None) -> HttpServer:
    return HttpServer(
        uvicorn.Config(
            api.app(),
            ssl_context_factory=None if context is None else lambda *_: context,
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
    shown = https_of("metrics", settings.tls)
    port, stop = serve_metrics(
        settings.host,
        settings.metrics_port,
        settings.metrics_port,
        context=None if shown is None else server_context(shown),
    )
    try:
        yield port
    finally:
        stop()
