"""An HTTP server of a few lines, for tests of what asks one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


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
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
