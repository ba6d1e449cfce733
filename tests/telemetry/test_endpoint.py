import socket
import urllib.request
from pathlib import Path

import pytest

from dspark.rpc.https import only_this, server_context
from dspark.telemetry.endpoint import serve_metrics
from tests.rpc.pki import Pki


def test_metrics_are_served_until_stopped_and_the_port_is_free_again() -> None:
    port, stop = serve_metrics("127.0.0.1", 0, 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"dspark_" in answer.read()
    stop()
    again, stop = serve_metrics("127.0.0.1", port, port)
    assert again == port
    stop()


def test_the_next_port_of_a_range_is_taken_and_a_full_range_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen, stop = serve_metrics("127.0.0.1", port, min(port + 50, 65535))
        assert port < chosen
        stop()
        with pytest.raises(ValueError, match=f"metrics port {port} is in use on 127.0.0.1"):
            serve_metrics("127.0.0.1", port, port)


def test_with_a_certificate_metrics_are_served_over_https_only(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    port, stop = serve_metrics("127.0.0.1", 0, 0, context=server_context(pki.https()))
    trusted = only_this(pki.folder / "certificate.pem")
    # Whoever says nothing, or speaks plain HTTP, keeps nobody waiting.
    with socket.create_connection(("127.0.0.1", port)):
        url = f"https://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5, context=trusted) as answer:
            assert b"dspark_" in answer.read()
        with pytest.raises(OSError, match=r"closed|reset|Remote end"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
        with urllib.request.urlopen(url, timeout=5, context=trusted) as answer:
            assert b"dspark_" in answer.read()
    stop()
