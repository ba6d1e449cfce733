"""The Prometheus endpoint of a process."""

import errno
from collections.abc import Callable

from prometheus_client import start_http_server

from dspark.telemetry import metrics


def serve_metrics(host: str, port_min: int, port_max: int) -> tuple[int, Callable[[], None]]:
    """Serve /metrics on the first free port of a range (0: one that the system chooses).

    Returns:
        The port, and a function that stops serving.

    Raises:
        ValueError: No port of the range is free, or one may not be had.
    """
    for port in range(port_min, max(port_min, port_max) + 1):
        try:
            http, thread = start_http_server(port, addr=host, registry=metrics.REGISTRY)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"metrics port {port}: {error.strerror}") from None
            continue
        break
    else:
        many = port_max > port_min
        span = f"ports {port_min}-{port_max} are all" if many else f"port {port_min} is"
        raise ValueError(f"metrics {span} in use on {host}: choose another port or range")

    def stop() -> None:
        http.shutdown()
        http.server_close()
        thread.join(timeout=2.0)

    return http.server_port, stop
