"""Ports: taken ones are found before anything starts."""

import socket


def require_free(host: str, port: int, *, what: str, remedy: str) -> None:
    """Return when ``port`` can be listened on.

    Raises:
        ValueError: It cannot; the message names the port, its user and the remedy.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ValueError(
                f"{what}: port {port} on {host} cannot be used ({error.strerror}); {remedy}"
            ) from None


def choose_free(host: str) -> int:
    """Return a port that is free now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
