"""An HTTP server of a few lines, for tests of what asks one."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from dspark.rpc.authority import Authority


class Answering(BaseHTTPRequestHandler):
    """Says JSON, and nothing in the log."""

    def say(self, status: int, document: Any) -> None:
        """Send an answer."""
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def asked(self) -> Any:
        """Read the request's JSON."""
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(handler: type[Answering]) -> Iterator[str]:
    """Serve until the end; yield the base URL."""
    with _running(HTTPServer(("127.0.0.1", 0), handler)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def served_with_tls(
    handler: type[Answering], authority: Authority, names: list[str], folder: Path
) -> Iterator[str]:
    """The same with a certificate for ``names``, whose files are written into ``folder``."""
    pair = authority.sign(names, days=1.0, now=datetime.now(UTC))
    (folder / "shown.crt").write_bytes(pair.certificate)
    (folder / "shown.key").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "shown.crt", folder / "shown.key")
    server = HTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with _running(server) as port:
        yield f"https://127.0.0.1:{port}"


@contextmanager
def _running(server: HTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
