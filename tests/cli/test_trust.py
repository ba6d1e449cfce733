import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspark.cli.client import open_client, stream
from dspark.cli.counters import since_start
from dspark.cli.trust import credentials_of, trusted, unverified
from dspark.rpc.https import server_context
from dspark.telemetry.endpoint import serve_metrics
from tests.controller.a_gateway import a_gateway
from tests.rpc.pki import Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def metrics_port(pki: Pki) -> Iterator[int]:
    port, stop = serve_metrics("127.0.0.1", 0, 0, context=server_context(pki.https()))
    yield port
    stop()


def test_plain_http_needs_no_trust() -> None:
    assert trusted("http://127.0.0.1:1", None) is True
    found = trusted("https://127.0.0.1:1", None)
    assert isinstance(found, ssl.SSLContext)
    assert found.check_hostname


def test_a_stack_without_tls_is_asked_without_credentials(pki: Pki) -> None:
    assert credentials_of(None) is None
    found = credentials_of(pki.settings().model_dump(mode="json"))
    assert found is not None
    assert found.settings == pki.settings()


def test_counts_are_read_over_https_by_the_stacks_certificate(pki: Pki, metrics_port: int) -> None:
    address = f"127.0.0.1:{metrics_port}"
    assert since_start([address], str(pki.folder / "certificate.pem")) is not None
    assert since_start([address]) is None  # plain HTTP is not answered


def test_a_server_that_is_not_believed_says_where_to_name_its_authority(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chat(url: str, certificate: str | None) -> str:
        async with open_client(url, certificate) as client:
            return "".join([chunk.text async for chunk in stream(client, "/v1/completions", {})])

    pki.renew(["127.0.0.1"])
    with a_gateway(server_context(pki.https())) as gateway:
        assert asyncio.run(chat(gateway.url, str(pki.folder / "certificate.pem")))
        with pytest.raises(ConnectionError, match="SSL_CERT_FILE"):
            asyncio.run(chat(gateway.url, None))
        monkeypatch.setenv("SSL_CERT_FILE", str(pki.folder / "authority.pem"))
        assert asyncio.run(chat(gateway.url, None))
    assert unverified(OSError("refused")) == ""
