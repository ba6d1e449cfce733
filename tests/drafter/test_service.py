"""The drafter's service, spoken to in protobuf: what the protocol's comments promise."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from dspark.rpc.channel import open_channel
from dspark.wire.fleet import compatibility_to_wire
from dspark.wire.tensor import tensor_to_wire
from dspark.wire.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from tests.drafter.serving import PAIR, Served, served


def hello(projection_id: str = "p1", incarnation: int = 1) -> draft_pb2.RoundRequest:
    return draft_pb2.RoundRequest(
        hello=draft_pb2.RoundRequest.Hello(
            replica="v1", incarnation=incarnation, projection_id=projection_id
        )
    )


def opening(
    session: int = 1, projection_id: str = "p1", **sampling: float
) -> draft_pb2.SeedRequest:
    return draft_pb2.SeedRequest(
        open=draft_pb2.SeedRequest.Open(
            replica="v1",
            incarnation=1,
            projection_id=projection_id,
            session=session,
            sampling=common_pb2.Sampling(**sampling),  # type: ignore[arg-type]
        )
    )


def tensor(count: int) -> common_pb2.Tensor:
    return tensor_to_wire(np.ones((count, 1), dtype=np.float32))


def asking(**changes: Any) -> draft_pb2.RoundRequest:
    """A round of session 1 without rows."""
    columns = {
        "round": 1,
        "sessions": [1],
        "base_lengths": [0],
        "anchors": [1],
        "rows_starts": [0],
        "num_rows": [0],
        "max_tokens": [2],
        "rows": tensor(0),
    }
    return draft_pb2.RoundRequest(**columns | changes)


class Client:
    """A verifier's end of the streams."""

    def __init__(self, stub: "draft_pb2_grpc.DraftServiceAsyncStub") -> None:
        self.stub = stub
        self.outbox: asyncio.Queue[draft_pb2.RoundRequest | None] = asyncio.Queue()
        self.call = stub.Rounds(self._outgoing())

    async def _outgoing(self) -> AsyncIterator[draft_pb2.RoundRequest]:
        while (message := await self.outbox.get()) is not None:
            yield message

    async def read(self) -> draft_pb2.RoundResponse:
        message = await asyncio.wait_for(self.call.read(), 10.0)
        assert isinstance(message, draft_pb2.RoundResponse), "the stream ended"
        return message

    async def greet(self) -> "Client":
        self.outbox.put_nowait(hello())
        assert (await self.read()).round == 0
        return self

    async def seed(self, *messages: draft_pb2.SeedRequest) -> draft_pb2.SeedResponse:
        async def chunks() -> AsyncIterator[draft_pb2.SeedRequest]:
            for message in messages:
                yield message

        return await self.stub.Seed(chunks(), timeout=10.0)


async def no_sessions(drafter: Served) -> None:
    async with asyncio.timeout(10.0):
        while drafter.drafter.num_sessions:  # noqa: ASYNC110 - the engine has its own thread
            await asyncio.sleep(0.005)


async def test_the_handshake_names_the_first_field_that_differs() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
        answer = await stub.Handshake(
            common_pb2.HandshakeRequest(compatibility=compatibility_to_wire(PAIR))
        )
        assert (answer.replica, answer.incarnation) == ("d1", 5)
        other = compatibility_to_wire(replace(PAIR, block_size=4, rows_dtype="float16"))
        with pytest.raises(grpc.aio.AioRpcError, match="block_size: 3 here, 4 there") as refusal:
            await stub.Handshake(common_pb2.HandshakeRequest(compatibility=other))
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_hello_is_answered_then_seeds_and_rounds_are() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        client = Client(draft_pb2_grpc.DraftServiceStub(channel))
        client.outbox.put_nowait(hello())
        first = await client.read()
        assert (first.round, first.incarnation, len(first.sessions)) == (0, 5, 0)
        seeded = await client.seed(
            opening(),
            draft_pb2.SeedRequest(rows_start=0, rows=tensor(2)),
            draft_pb2.SeedRequest(rows_start=2, rows=tensor(3)),
        )
        assert (seeded.status, seeded.cached_rows) == (draft_pb2.DRAFT_STATUS_OK, 5)
        client.outbox.put_nowait(
            asking(round=9, base_lengths=[6], rows_starts=[5], num_rows=[1], rows=tensor(1))
        )
        reply = await client.read()
        assert (reply.round, reply.incarnation, reply.draining) == (9, 5, False)
        assert (reply.sessions, reply.base_lengths, reply.num_tokens) == ([1], [6], [2])
        assert (len(reply.tokens), len(reply.confidences)) == (2, 2)
        client.call.cancel()


async def test_a_session_may_be_opened_without_rows() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        client = await Client(draft_pb2_grpc.DraftServiceStub(channel)).greet()
        seeded = await client.seed(opening())
        assert (seeded.status, seeded.cached_rows) == (draft_pb2.DRAFT_STATUS_OK, 0)
        client.call.cancel()


async def test_without_a_rounds_stream_nothing_can_be_seeded() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
        client = Client(stub)
        assert (await client.seed(opening())).status == draft_pb2.DRAFT_STATUS_FULL
        client.call.cancel()


async def test_a_gap_in_a_seeding_is_answered_not_seeded() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        client = await Client(draft_pb2_grpc.DraftServiceStub(channel)).greet()
        seeded = await client.seed(opening(), draft_pb2.SeedRequest(rows_start=2, rows=tensor(1)))
        assert seeded.status == draft_pb2.DRAFT_STATUS_NOT_SEEDED
        client.call.cancel()


async def test_a_stream_that_ends_frees_every_session_of_its_verifier() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        client = await Client(draft_pb2_grpc.DraftServiceStub(channel)).greet()
        for session in (1, 2, 3):
            await client.seed(opening(session), draft_pb2.SeedRequest(rows=tensor(2)))
        assert drafter.drafter.num_sessions == 3
        client.call.cancel()
        await no_sessions(drafter)


async def test_another_projection_is_refused_by_name_on_every_stream() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
        client = Client(stub)
        client.outbox.put_nowait(hello("p2"))
        with pytest.raises(grpc.aio.AioRpcError, match="projection_id: 'p1' here, 'p2'") as refusal:
            await client.read()
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError, match="projection_id") as refusal:
            await client.seed(opening(projection_id="p2"))
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_streams_that_begin_wrongly_are_invalid() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
        client = Client(stub)
        client.outbox.put_nowait(draft_pb2.RoundRequest(round=1))
        with pytest.raises(grpc.aio.AioRpcError, match="the first message is a hello") as refusal:
            await client.read()
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match="the first chunk opens") as refusal:
            await client.seed(draft_pb2.SeedRequest(rows=tensor(1)))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_malformed_messages_are_invalid_and_the_drafter_lives_on() -> None:
    bad = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_FLOAT32, shape=[2, 2], data=b"123")
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        client = await Client(draft_pb2_grpc.DraftServiceStub(channel)).greet()
        with pytest.raises(grpc.aio.AioRpcError, match="needs 16 bytes, not 3") as refusal:
            await client.seed(opening(), draft_pb2.SeedRequest(rows=bad))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match="temperature -1") as refusal:
            await client.seed(opening(temperature=-1.0))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for message, problem in (
            (asking(rows=bad), "needs 16 bytes, not 3"),
            (asking(num_rows=[2], rows=tensor(1)), r"rows of shape \(1, 1\) for 2 rows"),
            (asking(anchors=[1, 2]), "1 sessions with columns of"),
        ):
            client = await Client(draft_pb2_grpc.DraftServiceStub(channel)).greet()
            client.outbox.put_nowait(message)
            with pytest.raises(grpc.aio.AioRpcError, match=problem) as refusal:
                await client.read()
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        again = await Client(draft_pb2_grpc.DraftServiceStub(channel)).greet()
        again.call.cancel()


async def test_an_anchor_outside_the_vocabulary_is_invalid_and_kills_nobody_else() -> None:
    async with served() as drafter, open_channel(drafter.replica.address) as channel:
        stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
        client = await Client(stub).greet()
        client.outbox.put_nowait(asking(anchors=[1_000_000]))
        with pytest.raises(grpc.aio.AioRpcError, match="anchor 1000000 is not one of") as refusal:
            await client.read()
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await Client(stub).greet()
