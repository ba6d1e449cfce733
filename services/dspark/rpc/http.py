"""An HTTP server inside a process that has its own loop and its own signal handling."""

import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn


def bind(host: str, port: int, *, what: str) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Interface.
        port: 0 lets the system choose.
        what: Whose port it is, for the message.

    Raises:
        ValueError: The port is taken, or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} is in use on {host}: choose another one for {what}"
            ) from error
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sock


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would die of the signal that stopped it."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the process."""
        yield
