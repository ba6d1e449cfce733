from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dspark.config.endpoint import EndpointSettings
from dspark.rpc.channels import Channels
from dspark.rpc.credentials import Credentials
from dspark.rpc.server import RpcServer
from tests.rpc.pki import Pki


@asynccontextmanager
async def a_server(credentials: Credentials | None = None) -> AsyncIterator[str]:
    server = RpcServer(EndpointSettings(), [], credentials)
    try:
        yield await server.start()
    finally:
        await server.stop(0)


async def call(channel: aio.Channel) -> None:
    stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=10.0)


async def test_one_channel_serves_all_calls_to_an_address() -> None:
    channels = Channels(None)
    async with a_server() as address:
        async with channels.use(address) as first, channels.use(address) as second:
            await call(first)
            assert first is second
        assert len(channels) == 1
        await channels.close()
    assert len(channels) == 0


async def test_a_channel_in_use_outlives_its_address() -> None:
    channels = Channels(None)
    async with a_server() as address:
        async with channels.use(address) as channel:
            await channels.keep(())
            await call(channel)
        assert len(channels) == 1
        await channels.keep((address,))
        assert len(channels) == 1
        await channels.keep(())
        assert len(channels) == 0


async def test_a_new_certificate_gets_a_new_channel_and_the_old_one_ends_with_its_calls(
    tmp_path: Path,
) -> None:
    pki = Pki(tmp_path)
    ours = Credentials(pki.settings())
    channels = Channels(ours)
    async with a_server(ours) as address:
        async with channels.use(address) as before:
            await call(before)
            pki.renew()
            async with channels.use(address) as after:
                assert after is not before
                await call(after)
            await call(before)
            assert len(channels) == 2
        assert len(channels) == 1
        pki.renew()
        async with channels.use(address) as newest:
            await call(newest)
            assert len(channels) == 1
        await channels.close()
