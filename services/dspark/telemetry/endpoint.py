"""The Prometheus endpoint of a process."""

import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from dspark.telemetry import metrics

log = logging.getLogger(__name__)


def serve_metrics(
    host: str, port_min: int, port_max: int, *, context: ssl.SSLContext | None = None
) -> tuple[int, Callable[[], None]]:
    """Serve /metrics on the first free port of a range (0: one that the system chooses).

    Args:
        host: Interface.
        port_min: First port to try.
        port_max: Last port to try.
        context: For HTTPS; None: plain HTTP.

    Returns:
        The port, and a function that stops serving.

    Raises:
        ValueError: No port of the range is free, or one may not be had.
    """
    server = _ServerV6 if ":" in host else _Server
    for port in range(port_min, max(port_min, port_max) + 1):
        try:
            http = make_server(
                host, port, make_wsgi_app(metrics.REGISTRY), server, handler_class=_Handler
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"metrics port {port}: {error.strerror}") from None
            continue
        break
    else:
        many = port_max > port_min
        span = f"ports {port_min}-{port_max} are all" if many else f"port {port_min} is"
        raise ValueError(f"metrics {span} in use on {host}: choose another port or range")
    http.context = context
    thread = threading.Thread(target=http.serve_forever, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        http.shutdown()
        http.server_close()
        thread.join(timeout=2.0)

    return http.server_port, stop


class _Server(ThreadingWSGIServer):
    context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context is not None:
            # The handshake comes with the first read, in the connection's own thread: a client
            # that says nothing keeps nobody waiting.
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("metrics: %s", client_address, exc_info=True)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10.0

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not worth a line."""
