import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from dspark.rpc.channel import open_channel
from dspark.wire.fleet import compatibility_to_wire
from dspark.wire.tensor import tensor_from_wire
from dspark.wire.v1 import common_pb2, prefill_pb2, prefill_pb2_grpc
from tests.drafter.serving import PAIR
from tests.fakes import VOCAB
from tests.prefill.serving import Served, served
from tests.prefill.test_engine import hashes, prompt


def request(tokens: list[int], *held: bytes, want_rows: bool = True) -> prefill_pb2.PrefillRequest:
    return prefill_pb2.PrefillRequest(
        request_id="r",
        token_ids=tokens,
        held_page_hashes=held,
        compatibility=compatibility_to_wire(PAIR),
        want_rows=want_rows,
    )


@asynccontextmanager
async def stub_of(
    replica: Served,
) -> AsyncIterator["prefill_pb2_grpc.PrefillServiceAsyncStub"]:
    async with open_channel(replica.replica.address) as channel:
        yield prefill_pb2_grpc.PrefillServiceStub(channel)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not holds():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.005)


async def test_a_prompt_streams_as_chunks_of_kv_and_rows_and_ends_with_logits() -> None:
    tokens = prompt(21)
    async with served() as replica, stub_of(replica) as stub:
        chunks = [chunk async for chunk in stub.Prefill(request(tokens))]
        assert [(chunk.start, chunk.num_tokens) for chunk in chunks] == [(0, 8), (8, 8), (16, 5)]
        kv = [int(v) for c in chunks for v in tensor_from_wire(c.kv.layers[0]).reshape(-1)]
        rows = [int(v) for c in chunks for v in tensor_from_wire(c.rows).reshape(-1)]
        assert kv == rows == tokens
        assert [chunk.HasField("last_logits") for chunk in chunks] == [False, False, True]
        assert tensor_from_wire(chunks[-1].last_logits).tolist() == tokens


async def test_held_pages_and_unwanted_rows_are_not_sent() -> None:
    tokens = prompt(21)
    async with served() as replica, stub_of(replica) as stub:
        asked = request(tokens, *hashes(tokens)[:3], want_rows=False)
        chunks = [chunk async for chunk in stub.Prefill(asked)]
        assert chunks[0].start == 12
        assert not any(chunk.HasField("rows") for chunk in chunks)
        again = [chunk async for chunk in stub.Prefill(request(tokens))]
        assert [chunk.cached_tokens for chunk in again] == [20] * len(again)


async def test_a_mismatched_pair_is_refused_by_name_before_anything_runs() -> None:
    other = compatibility_to_wire(replace(PAIR, page_tokens=8))
    async with served() as replica, stub_of(replica) as stub:
        asked = request(prompt(5))
        asked.compatibility.CopyFrom(other)
        with pytest.raises(grpc.aio.AioRpcError, match="page_tokens: 4 here, 8 there") as refusal:
            async for _ in stub.Prefill(asked):
                pass
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError, match="page_tokens: 4 here, 8 there"):
            await stub.Handshake(common_pb2.HandshakeRequest(compatibility=other))


@pytest.mark.parametrize("tokens", [[], [VOCAB], [1] * 300])
async def test_a_prompt_that_cannot_run_is_an_invalid_argument(tokens: list[int]) -> None:
    async with served() as replica, stub_of(replica) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            async for _ in stub.Prefill(request(tokens)):
                pass
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_waiting_prompts_exhaust_the_replica() -> None:
    async with served(num_pages=16, max_waiting=1) as replica, stub_of(replica) as stub:
        replica.target.gate.clear()
        running = stub.Prefill(request(prompt(64)))
        await running.read()
        waiting = stub.Prefill(request(prompt(64, 1)))
        await until(lambda: replica.engine.num_waiting == 1)
        with pytest.raises(grpc.aio.AioRpcError, match="1 prompts are waiting") as refusal:
            async for _ in stub.Prefill(request(prompt(64, 2))):
                pass
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        running.cancel()
        waiting.cancel()


async def test_cancelling_the_call_frees_everything() -> None:
    async with served(num_pages=16) as replica, stub_of(replica) as stub:
        replica.target.gate.clear()
        calls = [stub.Prefill(request(prompt(64)))]
        await calls[0].read()
        calls += [stub.Prefill(request(prompt(64, seed))) for seed in (1, 2)]
        await until(lambda: replica.engine.num_open == 3)
        for call in calls:
            call.cancel()
        await until(lambda: replica.engine.num_waiting == 0)
        replica.target.gate.set()
        await until(lambda: replica.engine.num_open == 0)
        assert replica.engine.pages.free_pages == 16
        replica.engine.pages.check()


async def test_a_replica_that_stops_ends_its_streams_as_unavailable() -> None:
    async with served(num_pages=16) as replica, stub_of(replica) as stub:
        replica.target.gate.clear()
        running = stub.Prefill(request(prompt(64)))
        await running.read()
        other = stub.Prefill(request(prompt(64, 1)))
        await until(lambda: replica.engine.num_waiting == 1)
        stopping = asyncio.create_task(asyncio.to_thread(replica.engine.stop))
        await asyncio.sleep(0)
        replica.target.gate.set()
        await stopping
        with pytest.raises(grpc.aio.AioRpcError, match="stopping") as refusal:
            await other.read()
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        running.cancel()
