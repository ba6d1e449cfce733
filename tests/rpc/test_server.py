import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dspark.config.endpoint import EndpointSettings
from dspark.rpc.channel import open_channel
from dspark.rpc.server import RpcServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def taken_port() -> socket.socket:
    """A listening socket on a port whose successor is likely free."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


async def test_without_a_port_the_system_chooses_and_the_advertised_host_is_told() -> None:
    server = RpcServer(EndpointSettings(advertise_host="elsewhere"), [])
    address = await server.start()
    host, port = address.split(":")
    assert host == "elsewhere"
    assert int(port) > 0
    assert server.address == address
    await server.stop(0)


async def test_a_port_in_use_is_one_clear_line() -> None:
    with taken_port() as listener:
        port = listener.getsockname()[1]
        server = RpcServer(EndpointSettings(port_min=port, port_max=port), [])
        with pytest.raises(ValueError, match=rf"port {port} is in use on 127.0.0.1: choose"):
            await server.start()
        await server.stop(0)


async def test_the_next_port_of_the_range_is_taken_where_one_is_in_use() -> None:
    with taken_port() as listener:
        port = listener.getsockname()[1]
        server = RpcServer(EndpointSettings(port_min=port, port_max=min(port + 50, 65535)), [])
        address = await server.start()
        assert port < int(address.split(":")[1]) <= port + 50
        await server.stop(0)


async def test_two_servers_never_share_a_port() -> None:
    first = RpcServer(EndpointSettings(), [])
    port = int((await first.start()).split(":")[1])
    second = RpcServer(EndpointSettings(port_min=port, port_max=port), [])
    with pytest.raises(ValueError, match="is in use"):
        await second.start()
    await first.stop(0)
    await second.stop(0)


async def test_health_says_serving_until_the_drain() -> None:
    server = RpcServer(EndpointSettings(), ["a.B"])
    address = await server.start()
    async with open_channel(address) as channel:
        stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)

        async def health(service: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            return int(answer.status)

        assert [await health(""), await health("a.B")] == [SERVING, SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health("c.D")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        await server.drain()
        assert [await health(""), await health("a.B")] == [NOT_SERVING, NOT_SERVING]
    await server.stop(0)
