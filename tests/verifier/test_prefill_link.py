"""Pulling prompts over real gRPC from replicas that answer, lie, stop half-way, or are gone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from dspark.config.endpoint import EndpointSettings
from dspark.core.fleet import Fleet, Member, Replica, Role
from dspark.core.ids import SessionId, Term
from dspark.rpc.server import RpcServer
from dspark.rpc.watch import Latest
from dspark.verifier.events import Prefilled, PrefillFailed
from dspark.verifier.prefill_link import PrefillLink
from dspark.wire.v1 import prefill_pb2, prefill_pb2_grpc
from tests.drafter.serving import PAIR
from tests.fleet_examples import a_replica
from tests.prefill.serving import ROOT, served
from tests.prefill.test_engine import hashes, prompt

ONE = SessionId(1)


class Engine:
    """The verifier's engine as the link sees it: chunks are copied when a test says so."""

    def __init__(self, *replicas: Replica, attempts: int = 2, reads: bool = True) -> None:
        self.events: asyncio.Queue[Prefilled | PrefillFailed] = asyncio.Queue()
        self.reads = reads
        members = tuple(Member(replica=replica) for replica in replicas)
        self.link = PrefillLink(
            Latest(Fleet(term=Term(1), version=1, members=members)),
            compatibility=PAIR,
            post=self._post,
            timeout_s=10.0,
            attempts=attempts,
            want_rows=True,
            hash_root=ROOT,
        )

    def _post(self, event: Prefilled | PrefillFailed) -> None:
        self.events.put_nowait(event)
        if self.reads and isinstance(event, Prefilled):
            event.taken()

    def start(self, tokens: Sequence[int], *held: bytes) -> None:
        self.link.start(ONE, 1, "r", tuple(tokens), held)

    async def next(self) -> Prefilled | PrefillFailed:
        return await asyncio.wait_for(self.events.get(), 10.0)

    async def all(self) -> tuple[list[Prefilled], PrefillFailed | None]:
        """Everything up to the end of the pull."""
        chunks: list[Prefilled] = []
        while True:
            event = await self.next()
            if isinstance(event, PrefillFailed):
                return chunks, event
            chunks.append(event)
            if event.last_logits is not None:
                return chunks, None


def kv_of(chunks: Sequence[Prefilled]) -> list[int]:
    return [int(value) for chunk in chunks for value in chunk.kv[0].reshape(-1)]


@asynccontextmanager
async def engine(
    *replicas: Replica, attempts: int = 2, reads: bool = True
) -> AsyncIterator[Engine]:
    made = Engine(*replicas, attempts=attempts, reads=reads)
    try:
        yield made
    finally:
        await made.link.close()


class Half(prefill_pb2_grpc.PrefillServiceServicer):
    """Passes on what a real replica sends, and ends or dies after so many chunks."""

    def __init__(self, behind: str, *, num_chunks: int, dies: bool) -> None:
        self.behind = behind
        self.num_chunks = num_chunks
        self.dies = dies

    async def Prefill(self, request, context):  # type: ignore[no-untyped-def]
        from dspark.rpc.channel import open_channel

        async with open_channel(self.behind) as channel:
            call = prefill_pb2_grpc.PrefillServiceStub(channel).Prefill(request)
            for _ in range(self.num_chunks):
                yield await call.read()
            call.cancel()
        if self.dies:
            raise RuntimeError("out of memory")


@asynccontextmanager
async def half(behind: str, *, num_chunks: int, dies: bool = True) -> AsyncIterator[Replica]:
    server = RpcServer(EndpointSettings(), ["prefill"])
    service = Half(behind, num_chunks=num_chunks, dies=dies)
    server.add(lambda it: prefill_pb2_grpc.add_PrefillServiceServicer_to_server(service, it))
    address = await server.start()
    try:
        # By name it comes before p1 where loads are equal.
        yield replace(a_replica("p0", Role.PREFILL, compatibility=PAIR), address=address)
    finally:
        await server.stop(0)


async def test_a_prompt_arrives_as_events_in_order() -> None:
    tokens = prompt(21)
    async with served() as replica, engine(replica.replica) as it:
        assert it.link.available()
        it.start(tokens)
        chunks, failed = await it.all()
        assert failed is None
        assert kv_of(chunks) == tokens
        assert [(chunk.session, chunk.attempt) for chunk in chunks] == [(1, 1)] * 3
        assert [chunk.start for chunk in chunks] == [0, 8, 16]
        assert all(chunk.rows is not None for chunk in chunks)


async def test_held_pages_are_named_and_do_not_come() -> None:
    tokens = prompt(21)
    async with served() as replica, engine(replica.replica) as it:
        it.start(tokens, *hashes(tokens)[:3])
        chunks, _ = await it.all()
        assert chunks[0].start == 12
        assert kv_of(chunks) == tokens[12:]


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("num_chunks", [0, 2])
async def test_another_replica_goes_on_where_one_stopped(num_chunks: int, dies: bool) -> None:
    tokens = prompt(45)
    async with (
        served() as good,
        served("behind") as behind,
        half(behind.replica.address, num_chunks=num_chunks, dies=dies) as bad,
        engine(bad, good.replica) as it,
    ):
        it.start(tokens, *hashes(tokens)[:1])
        chunks, failed = await it.all()
        assert failed is None
        assert kv_of(chunks) == tokens[4:]  # each position once
        assert good.engine.prompt_tokens == len(tokens)
        sent_by_good = len(chunks) - num_chunks
        assert sent_by_good == -(-(45 - max(4, 8 * num_chunks)) // 8)


async def test_a_second_replica_with_another_chunking_sends_nothing_twice() -> None:
    tokens = prompt(45)
    async with (
        served() as good,
        served("behind") as behind,
        half(behind.replica.address, num_chunks=2) as bad,
        engine(good.replica) as warm,
        engine(bad, good.replica) as it,
    ):
        warm.start(tokens[:13])  # three pages cached at the second: not a whole chunk
        await warm.all()
        it.start(tokens)
        chunks, failed = await it.all()
        assert failed is None
        assert kv_of(chunks) == tokens


async def test_a_dead_replica_is_passed_over() -> None:
    gone = replace(a_replica("p0", Role.PREFILL, compatibility=PAIR), address="127.0.0.1:1")
    async with served() as replica, engine(gone, replica.replica) as it:
        it.start(prompt(9))
        chunks, failed = await it.all()
        assert failed is None
        assert kv_of(chunks) == prompt(9)


async def test_when_every_attempt_failed_the_reason_names_the_last_replica() -> None:
    gone = [
        replace(a_replica(name, Role.PREFILL, compatibility=PAIR), address="127.0.0.1:1")
        for name in ("p1", "p2", "p3")
    ]
    async with engine(*gone, attempts=2) as it:
        it.start(prompt(9))
        chunks, failed = await it.all()
        assert chunks == []
        assert failed is not None
        assert failed.reason.startswith("p2: ")


async def test_without_a_fitting_replica_the_failure_comes_at_once() -> None:
    misfit = a_replica("p1", Role.PREFILL, compatibility=replace(PAIR, page_tokens=8))
    async with engine(misfit) as it:
        assert not it.link.available()
        it.start(prompt(9))
        _, failed = await it.all()
        assert failed is not None
        assert failed.reason == "no prefill replica is ready"


async def test_the_stream_waits_until_a_chunk_is_copied() -> None:
    async with served() as replica, engine(replica.replica, reads=False) as it:
        it.start(prompt(24))
        first = await it.next()
        await asyncio.sleep(0.05)
        assert it.events.empty()
        assert isinstance(first, Prefilled)
        first.taken()
        second = await it.next()
        assert isinstance(second, Prefilled)
        assert second.start == 8


async def test_cancelling_ends_the_pull_and_frees_the_replica() -> None:
    async with served() as replica, engine(replica.replica, reads=False) as it:
        it.start(prompt(100))
        await it.next()
        it.link.cancel(ONE)
        it.link.cancel(SessionId(2))  # unknown: ignored
        async with asyncio.timeout(10.0):
            while replica.engine.num_open:  # noqa: ASYNC110 - another thread empties it
                await asyncio.sleep(0.005)
        assert it.events.empty()
        assert replica.engine.pages.free_pages == replica.engine.pages.num_pages


async def test_a_malformed_chunk_is_a_failure_of_the_replica() -> None:
    class Garbling(prefill_pb2_grpc.PrefillServiceServicer):
        async def Prefill(self, request, context):  # type: ignore[no-untyped-def]
            chunk = prefill_pb2.PrefillChunk(start=0, num_tokens=4)
            chunk.kv.layers.add(dtype=1, shape=[4, 1], data=b"short")
            yield chunk

    server = RpcServer(EndpointSettings(), ["prefill"])
    server.add(lambda it: prefill_pb2_grpc.add_PrefillServiceServicer_to_server(Garbling(), it))
    address = await server.start()
    replica = replace(a_replica("p0", Role.PREFILL, compatibility=PAIR), address=address)
    async with engine(replica) as it:
        it.start(prompt(9))
        chunks, failed = await it.all()
        assert chunks == []
        assert failed is not None
        assert "needs 16 bytes, not 5" in failed.reason
    await server.stop(0)
