"""Links over real gRPC: what a verifier's desk hears of drafters that come, answer and go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest

from dspark.config.endpoint import EndpointSettings
from dspark.core.draft import DraftStatus, Round, SessionRound
from dspark.core.fleet import Fleet, Member, Replica, ReplicaState
from dspark.core.ids import Incarnation, ReplicaName, SessionId, Term
from dspark.core.sampling import Sampling
from dspark.drafting.events import Connected, DraftEvent, Lost, Replied, Seeded
from dspark.drafting.links import DrafterLinks
from dspark.rpc.server import RpcServer
from dspark.rpc.watch import Latest
from dspark.wire.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from tests.drafter.serving import PAIR, Served, served

E = TypeVar("E")
D1 = ReplicaName("d1")
ONE = SessionId(1)


class Verifier:
    """The verifier's end: a fleet to follow, and what was posted."""

    def __init__(self) -> None:
        self.fleet: Latest[Fleet] = Latest()
        self.events: asyncio.Queue[DraftEvent] = asyncio.Queue()
        self.links = DrafterLinks(
            self.fleet,
            replica="v1",
            incarnation=Incarnation(1),
            compatibility=PAIR,
            post=self.events.put_nowait,
            reconnect_s=0.02,
        )
        self._version = 0

    def sees(self, *replicas: Replica) -> None:
        self._version += 1
        members = tuple(Member(replica=replica) for replica in replicas)
        self.fleet.set(Fleet(term=Term(1), version=self._version, members=members))

    async def hears(self, kind: type[E]) -> E:
        """The next event, which is of this kind."""
        event = await asyncio.wait_for(self.events.get(), 10.0)
        assert isinstance(event, kind), event
        return event

    async def hears_nothing(self) -> None:
        await asyncio.sleep(0.1)
        assert self.events.empty()

    def seed(self, number: int, *counts: int, session: SessionId = ONE) -> None:
        chunks = []
        start = 0
        for count in counts:
            chunks.append((start, np.ones((count, 1), dtype=np.float32)))
            start += count
        self.links.seed(D1, session, number, Sampling(), chunks)

    def ask(self, number: int, rows_start: int, count: int, *released: SessionId) -> int:
        part = SessionRound(
            session=ONE,
            base_length=rows_start + count,
            anchor=1,
            rows_start=rows_start,
            rows=np.ones((count, 1), dtype=np.float32),
            max_tokens=2,
        )
        return self.links.send(D1, Round(number=number, sessions=(part,), released=released))


@asynccontextmanager
async def verifier(*drafters: Served) -> AsyncIterator[Verifier]:
    made = Verifier()
    made.sees(*(drafter.replica for drafter in drafters))
    try:
        yield made
    finally:
        await made.links.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not holds():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.005)


async def test_a_ready_drafter_is_connected_seeded_and_asked() -> None:
    async with served() as drafter, verifier(drafter) as it:
        assert (await it.hears(Connected)).incarnation == 5
        it.seed(1, 2, 3)
        seeded = await it.hears(Seeded)
        assert (seeded.status, seeded.cached_rows, seeded.seeding) == (DraftStatus.OK, 5, 1)
        num_bytes = it.ask(1, 5, 1)
        answer = await it.hears(Replied)
        assert num_bytes > 0
        assert answer.num_bytes > 0
        assert (answer.reply.number, answer.reply.incarnation) == (1, 5)
        assert [(b.base_length, len(b.tokens)) for b in answer.reply.blocks] == [(6, 2)]


async def test_many_rounds_are_answered_in_order() -> None:
    async with served() as drafter, verifier(drafter) as it:
        await it.hears(Connected)
        it.seed(1, 1)
        await it.hears(Seeded)
        for number in range(1, 21):
            it.ask(number, number, 1)
            assert (await it.hears(Replied)).reply.number == number
        assert drafter.engine.totals.rounds == 20


async def test_a_broken_stream_is_a_loss_and_a_new_connection_follows() -> None:
    async with served() as drafter, verifier(drafter) as it:
        await it.hears(Connected)
        it.seed(1, 4)
        await it.hears(Seeded)
        # Rows that no drafter can read: it ends the stream.
        bad = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_FLOAT32, shape=[1], data=b"")
        message = draft_pb2.RoundRequest(
            sessions=[1],
            base_lengths=[1],
            anchors=[1],
            rows_starts=[0],
            num_rows=[1],
            max_tokens=[1],
            rows=bad,
        )
        it.links._links[D1].outbox.put_nowait(message)
        assert (await it.hears(Lost)).incarnation == 5
        assert (await it.hears(Connected)).incarnation == 5
        await until(lambda: drafter.drafter.num_sessions == 0)
        it.seed(2, 4)
        assert (await it.hears(Seeded)).status is DraftStatus.OK


async def test_a_drafter_that_dies_is_lost_and_its_successor_is_used() -> None:
    async with served() as first, verifier(first) as it:
        await it.hears(Connected)
        await first.stop()
        assert (await it.hears(Lost)).incarnation == 5
        async with served(incarnation=6) as second:
            it.sees(second.replica)
            assert (await it.hears(Connected)).incarnation == 6
            it.links.send(D1, Round(number=1, sessions=()))
            assert (await it.hears(Replied)).reply.incarnation == 6
            it.sees()
            await it.hears(Lost)


async def test_a_drafter_that_left_the_fleet_is_let_go() -> None:
    async with served() as drafter, verifier(drafter) as it:
        await it.hears(Connected)
        it.sees()
        await it.hears(Lost)
        await it.hears_nothing()


async def test_a_draining_drafter_keeps_its_link_but_gets_no_new_one() -> None:
    async with served() as drafter, verifier(drafter) as it:
        await it.hears(Connected)
        draining = replace(drafter.replica, state=ReplicaState.DRAINING)
        it.sees(draining)
        await it.hears_nothing()
        it.sees()
        await it.hears(Lost)
        it.sees(draining)
        await it.hears_nothing()


async def test_drafters_of_another_projection_or_still_starting_are_left_alone() -> None:
    other = replace(PAIR, projection_id="p2")
    async with served(compatibility=other) as drafter, verifier(drafter) as it:
        await it.hears_nothing()
        it.sees(replace(drafter.replica, compatibility=PAIR, state=ReplicaState.STARTING))
        await it.hears_nothing()


async def test_a_mismatch_that_only_the_handshake_shows_is_logged_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = replace(PAIR, projection_id="p2")
    async with served(compatibility=other) as drafter, verifier() as it:
        with caplog.at_level("INFO"):
            it.sees(replace(drafter.replica, compatibility=PAIR))
            await until(lambda: "projection_id: 'p2' here, 'p1' there" in caplog.text)
        await it.hears_nothing()


async def test_seeding_that_fails_is_reported_and_the_link_stays() -> None:
    async with served() as drafter, verifier(drafter) as it:
        await it.hears(Connected)
        rows = np.ones((2, 1), dtype=np.float32)
        it.links.seed(D1, ONE, 1, Sampling(), [(3, rows)])
        assert (await it.hears(Seeded)).status is DraftStatus.NOT_SEEDED
        drafter.drafter._max_sessions = 1
        it.seed(2, 2)
        assert (await it.hears(Seeded)).status is DraftStatus.OK
        it.seed(3, 2, session=SessionId(2))
        assert (await it.hears(Seeded)).status is DraftStatus.FULL


async def test_more_seedings_than_run_at_once_all_end() -> None:
    async with served() as drafter, verifier(drafter) as it:
        await it.hears(Connected)
        for session in range(1, 13):
            it.seed(session, 3, 3, session=SessionId(session))
        ends = [await it.hears(Seeded) for _ in range(12)]
        assert sorted(end.session for end in ends) == list(range(1, 13))
        assert {end.cached_rows for end in ends} == {6}


async def test_what_is_sent_to_a_drafter_that_is_gone_is_dropped() -> None:
    async with verifier() as it:
        assert it.ask(1, 0, 1) > 0
        it.seed(1, 3)
        await it.hears_nothing()


class Stuck(draft_pb2_grpc.DraftServiceServicer):
    """A drafter that greets and says hello, and then reads no round."""

    def __init__(self, *, hello_incarnation: int) -> None:
        self.hello_incarnation = hello_incarnation
        self.streams = 0

    async def Handshake(self, request, context):  # type: ignore[no-untyped-def]
        return common_pb2.HandshakeResponse(replica="d1", incarnation=5)

    async def Rounds(self, request_iterator, context):  # type: ignore[no-untyped-def]
        await anext(aiter(request_iterator))
        self.streams += 1
        yield draft_pb2.RoundResponse(incarnation=self.hello_incarnation)
        await asyncio.sleep(60.0)


@asynccontextmanager
async def stuck(*, hello_incarnation: int = 5) -> AsyncIterator[tuple[Stuck, Replica]]:
    server = RpcServer(EndpointSettings(), ["draft"])
    service = Stuck(hello_incarnation=hello_incarnation)
    server.add(lambda it: draft_pb2_grpc.add_DraftServiceServicer_to_server(service, it))
    address = await server.start()
    try:
        yield service, replace(Served("d1", 5, PAIR).replica, address=address)
    finally:
        await server.stop(0)


async def test_a_full_outbox_loses_the_link_and_a_new_one_is_made() -> None:
    async with stuck() as (_, replica), verifier() as it:
        it.sees(replica)
        await it.hears(Connected)
        rows = np.ones((1024, 64), dtype=np.float32)
        part = SessionRound(
            session=ONE, base_length=1024, anchor=1, rows_start=0, rows=rows, max_tokens=1
        )
        for number in range(200):
            it.links.send(D1, Round(number=number, sessions=(part,)))
        await it.hears(Lost)
        await it.hears(Connected)


async def test_a_process_that_is_not_the_one_that_was_greeted_is_not_used() -> None:
    async with stuck(hello_incarnation=6) as (service, replica), verifier() as it:
        it.sees(replica)
        await until(lambda: service.streams >= 2)
        assert it.events.empty()
