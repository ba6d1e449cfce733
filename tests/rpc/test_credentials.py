"""Real servers and channels: who is let in, who is not, and what each is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dspark.config.endpoint import EndpointSettings
from dspark.rpc.channel import open_channel
from dspark.rpc.credentials import Credentials, open_credentials
from dspark.rpc.server import RpcServer
from dspark.rpc.tls_problem import explained, tls_problem
from dspark.telemetry import metrics
from tests.rpc.pki import Pki, an_authority, now

_PATIENCE_S = 10.0


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "ours")


@asynccontextmanager
async def serving(credentials: Credentials | None) -> AsyncIterator[str]:
    server = RpcServer(EndpointSettings(), [], credentials)
    try:
        yield await server.start()
    finally:
        await server.stop(0)


async def ask(address: str, credentials: Credentials | None) -> str:
    """Ask a server for its health on a new connection; return "ok", or the failed call's words."""
    async with open_channel(address, credentials) as channel:
        stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "ok"


async def why(address: str, credentials: Credentials | None) -> str:
    tls = None if credentials is None else credentials.settings
    said = await ask(address, credentials)
    assert said.startswith("UNAVAILABLE: ")
    return tls_problem(said, tls) or "no problem of TLS"


async def test_certificates_of_one_authority_let_each_other_in(pki: Pki, tmp_path: Path) -> None:
    other = Credentials(Pki(tmp_path / "another", pki.authority).settings())
    async with serving(Credentials(pki.settings())) as address:
        assert await ask(address, other) == "ok"


async def test_a_server_is_known_by_the_services_name_and_not_by_its_address(pki: Pki) -> None:
    # The certificate says nothing of 127.0.0.1.
    pki.renew(["dspark.internal"])
    async with serving(Credentials(pki.settings())) as address:
        assert await ask(address, Credentials(pki.settings())) == "ok"
        by_host = Credentials(pki.settings(server_name=None))
        assert "is not for the host of its address" in await why(address, by_host)
    pki.renew(["dspark.internal", "127.0.0.1"])
    async with serving(Credentials(pki.settings())) as address:
        assert await ask(address, Credentials(pki.settings(server_name=None))) == "ok"


async def test_a_bare_client_is_refused_and_told_what_may_be_missing(pki: Pki) -> None:
    async with serving(Credentials(pki.settings())) as address:
        assert "does it want TLS, which is not set here" in await why(address, None)


async def test_a_bare_server_is_told_from_one_that_is_away(pki: Pki) -> None:
    ours = Credentials(pki.settings())
    async with serving(None) as address:
        assert "it speaks no TLS" in await why(address, ours)
    assert await why("127.0.0.1:1", ours) == "no problem of TLS"
    assert await why("127.0.0.1:1", None) == "no problem of TLS"


async def test_a_client_of_another_authority_is_refused(pki: Pki, tmp_path: Path) -> None:
    theirs = Pki(tmp_path / "theirs", an_authority("theirs"))
    # It believes our server, so that only the server can refuse.
    theirs.trust(theirs.authority, pki.authority)
    async with serving(Credentials(pki.settings())) as address:
        assert "it hung up on our certificate" in await why(address, Credentials(theirs.settings()))


async def test_a_client_without_a_certificate_is_refused(pki: Pki) -> None:
    async with serving(Credentials(pki.settings())) as address:
        bare = grpc.ssl_channel_credentials(pki.authority.pair.certificate)
        options = [("grpc.ssl_target_name_override", "dspark.internal")]
        async with grpc.aio.secure_channel(address, bare, options=options) as channel:
            stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_of_another_authority_is_not_believed(pki: Pki, tmp_path: Path) -> None:
    theirs = Pki(tmp_path / "theirs", an_authority("theirs"))
    async with serving(Credentials(theirs.settings())) as address:
        problem = await why(address, Credentials(pki.settings()))
    assert problem == f"its certificate is not of our authority ({pki.settings().authority})"


async def test_a_new_certificate_is_shown_without_a_restart(pki: Pki) -> None:
    ours = Credentials(pki.settings())
    async with serving(ours) as address, open_channel(address, ours) as before:
        stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(before)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
        # Everything is replaced, the authority too: only who reads it again gets along.
        pki.authority = an_authority("next")
        pki.trust(pki.authority)
        pki.renew()
        assert ours.number == 2
        assert await ask(address, ours) == "ok"
        # What was open goes on.
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)


async def test_half_a_replacement_changes_nothing(pki: Pki) -> None:
    ours = Credentials(pki.settings())
    async with serving(ours) as address:
        pair = pki.authority.sign(["dspark.internal"], days=1, now=now())
        (pki.folder / "key.pem").write_bytes(pair.key)
        assert await ask(address, ours) == "ok"
        assert ours.number == 1
        (pki.folder / "certificate.pem").write_bytes(pair.certificate)
        assert await ask(address, ours) == "ok"
        assert ours.number == 2


async def test_a_file_at_fault_ends_the_start_with_its_name(pki: Pki) -> None:
    (pki.folder / "key.pem").unlink()
    with pytest.raises(ValueError, match=r"key\.pem: no such file"):
        open_credentials(pki.settings())
    assert open_credentials(None) is None


def days_left() -> float:
    value = metrics.REGISTRY.get_sample_value(
        "dspark_certificate_expiry_timestamp_seconds", {"use": "tls"}
    )
    assert value is not None
    return (value - now().timestamp()) / 86400


def test_the_end_of_the_newest_certificate_is_a_metric_also_without_a_handshake(pki: Pki) -> None:
    Credentials(pki.settings())
    assert 0 < days_left() <= 1
    pki.renew(days=30)
    assert 29 < days_left() <= 30


def test_what_a_failure_means_goes_before_its_details(pki: Pki) -> None:
    assert explained("Connection refused", pki.settings()) == "Connection refused"
    text = explained("... certificate has expired ...", pki.settings())
    assert (
        text
        == "its certificate has expired: replace its file there (... certificate has expired ...)"
    )
