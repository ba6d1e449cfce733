"""A real redis-server on a free port of this machine."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis


@dataclass
class RedisServer:
    """Can be stopped and started again; what it held is lost then."""

    password: str | None = None
    port: int = 0
    tls: Path | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        if self.tls is None:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"rediss://localhost:{self.port}/0?ssl_ca_certs={self.tls / 'cert.pem'}"

    def start(self) -> None:
        words = ["--requirepass", self.password] if self.password else []
        if self.tls is None:
            words += ["--port", str(self.port)]
        else:
            cert, key = str(self.tls / "cert.pem"), str(self.tls / "key.pem")
            words += ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", cert,
                      "--tls-key-file", key, "--tls-ca-cert-file", cert,
                      "--tls-auth-clients", "no"]  # fmt: skip
        self.process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *words],
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis.from_url(self.url, password=self.password)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline_s, "redis-server does not come up"
                time.sleep(0.02)
        client.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@contextmanager
def a_redis(password: str | None = None, *, tls: Path | None = None) -> Iterator[RedisServer]:
    """Start one, or skip the test where it is not installed.

    Args:
        password: That it asks for.
        tls: Folder for a certificate of its own; None: plain TCP.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    if tls is not None:
        certify(tls)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = RedisServer(password=password, port=probe.getsockname()[1], tls=tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def certify(folder: Path) -> None:
    """Write a self-signed certificate for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out",
         folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
