"""A real HTTPS server: what it shows, and whom our clients believe."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dspark.rpc.http import HttpServer, bind
from dspark.rpc.https import known_to_the_system, only_this, server_context
from dspark.telemetry import metrics
from tests.rpc.pki import Pki, an_authority


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "files")


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.scheme)


@asynccontextmanager
async def serving(pki: Pki) -> AsyncIterator[str]:
    context = server_context(pki.https())
    app = Starlette(routes=[Route("/", _hello)])
    config = uvicorn.Config(
        app, ssl_context_factory=lambda *_: context, log_config=None, lifespan="off"
    )
    server = HttpServer(config)
    with bind("127.0.0.1", 0, what="the test") as sock:
        task = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield f"https://127.0.0.1:{sock.getsockname()[1]}/"
        finally:
            server.should_exit = True
            await task


async def get(url: str, verify: ssl.SSLContext) -> str:
    async with httpx.AsyncClient(verify=verify, trust_env=False, timeout=10.0) as client:
        return (await client.get(url)).text


async def test_the_very_certificate_is_believed_whatever_it_is_called(pki: Pki) -> None:
    pki.renew(["elsewhere.example"])
    async with serving(pki) as url:
        assert await get(url, only_this(pki.folder / "certificate.pem")) == "https"


async def test_another_certificate_of_the_same_authority_is_not(pki: Pki, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other", pki.authority)
    # Though the file goes on with the authority that signed both.
    file = other.folder / "certificate.pem"
    file.write_bytes(file.read_bytes() + pki.authority.pair.certificate)
    async with serving(pki) as url:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(url, only_this(file))


async def test_elsewhere_the_name_in_the_url_and_the_authority_decide(pki: Pki) -> None:
    ours = known_to_the_system(authority=pki.folder / "authority.pem")
    pki.renew(["127.0.0.1"])
    async with serving(pki) as url:
        assert await get(url, ours) == "https"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(url, known_to_the_system())
        pki.renew(["elsewhere.example"])
        with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
            await get(url, ours)


async def test_a_new_certificate_is_shown_to_the_next_connection(pki: Pki) -> None:
    async with serving(pki) as url:
        file = pki.folder / "certificate.pem"
        before = only_this(file)
        async with httpx.AsyncClient(verify=before, trust_env=False, timeout=10.0) as client:
            assert (await client.get(url)).text == "https"
            pki.authority = an_authority("next")
            pki.renew()
            assert await get(url, only_this(file)) == "https"
            # The connection that was open goes on; a new one does not believe it any more.
            assert (await client.get(url)).text == "https"
            with pytest.raises(httpx.ConnectError):
                await get(url, before)
        name = url.removeprefix("https://127.0.0.1:").removesuffix("/")
        named = f"https://localhost:{name}/"  # sends the name; the handshake differs
        assert await get(named, only_this(file)) == "https"


async def test_half_a_replacement_keeps_the_certificate_before(pki: Pki) -> None:
    file = pki.folder / "certificate.pem"
    before = only_this(file)
    async with serving(pki) as url:
        file.write_bytes(b"half a certif")
        assert await get(url, before) == "https"


async def test_plain_http_is_refused(pki: Pki) -> None:
    async with serving(pki) as url:
        host, port = url.removeprefix("https://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 10.0)
        assert b"HTTP" not in answer
        writer.close()


async def test_versions_before_1_2_are_refused(pki: Pki) -> None:
    assert server_context(pki.https()).minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_file_at_fault_is_named(pki: Pki) -> None:
    (pki.folder / "key.pem").write_text("none")
    with pytest.raises(ValueError, match=r"key\.pem: no private key in PEM"):
        server_context(pki.https())
    (pki.folder / "authority.pem").write_text("none")
    with pytest.raises(ValueError, match=r"authority\.pem: no certificate in PEM"):
        known_to_the_system(authority=pki.folder / "authority.pem")


def test_the_end_of_the_certificate_is_a_metric(pki: Pki) -> None:
    server_context(pki.https())
    labels = {"use": "https"}
    name = "dspark_certificate_expiry_timestamp_seconds"
    assert metrics.REGISTRY.get_sample_value(name, labels)
