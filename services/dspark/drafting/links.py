"""Links to drafters over gRPC: one long-lived rounds stream a drafter, seeding beside it.

Runs on an event loop; ``send`` and ``seed`` may be called from the engine's thread.  Reader and
writer are separate tasks, and the outbox is bounded and never awaited by the engine: two ends
that each wait for the other to read cannot come about.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import grpc

from dspark.core.draft import DraftStatus, Round, Rows
from dspark.core.fleet import Compatibility, Fleet, Replica, ReplicaState, Role
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.events import Connected, DraftEvent, Lost, Replied, Seeded
from dspark.rpc.channel import open_channel, told_to_stop
from dspark.rpc.credentials import Credentials
from dspark.rpc.tls_problem import explained
from dspark.rpc.watch import Latest
from dspark.wire.draft import reply_from_wire, round_to_wire, status_from_wire
from dspark.wire.fleet import compatibility_to_wire
from dspark.wire.sampling import sampling_to_wire
from dspark.wire.tensor import tensor_to_wire
from dspark.wire.v1 import common_pb2, draft_pb2, draft_pb2_grpc

log = logging.getLogger(__name__)

_MAX_OUTBOX_ROUNDS = 64
_MAX_SEEDINGS_AT_ONCE = 4
_HANDSHAKE_TIMEOUT_S = 5.0
_SEED_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Link:
    """One connected drafter."""

    incarnation: Incarnation
    stub: "draft_pb2_grpc.DraftServiceAsyncStub"
    outbox: asyncio.Queue[draft_pb2.RoundRequest] = field(
        default_factory=lambda: asyncio.Queue(_MAX_OUTBOX_ROUNDS)
    )
    seedings: set[asyncio.Task[None]] = field(default_factory=set)
    gate: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_MAX_SEEDINGS_AT_ONCE)
    )
    overflowed: asyncio.Event = field(default_factory=asyncio.Event)


class DrafterLinks:
    """Keeps a link to every ready drafter of our projection; implements ``DraftPort``."""

    def __init__(
        self,
        fleet: Latest[Fleet],
        *,
        replica: str,
        incarnation: Incarnation,
        compatibility: Compatibility,
        post: Callable[[DraftEvent], None],
        reconnect_s: float,
        credentials: Credentials | None = None,
    ) -> None:
        self._fleet = fleet
        self._replica = replica
        self._incarnation = incarnation
        self._compatibility = compatibility
        self._post = post
        self._reconnect_s = reconnect_s
        self._credentials = credentials
        self._tls = None if credentials is None else credentials.settings
        self._loop = asyncio.get_running_loop()
        self._links: dict[ReplicaName, _Link] = {}
        self._tasks: dict[ReplicaName, tuple[Incarnation, asyncio.Task[None]]] = {}
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End every link."""
        tasks = [self._watcher, *(task for _, task in self._tasks.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def send(self, drafter: ReplicaName, round_: Round) -> int:
        """Queue a round (any thread); return its size in bytes."""
        message = round_to_wire(round_)
        self._loop.call_soon_threadsafe(self._enqueue, drafter, message)
        return message.ByteSize()

    def seed(
        self,
        drafter: ReplicaName,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        """Begin seeding (any thread)."""
        self._loop.call_soon_threadsafe(
            self._start_seeding, drafter, session, seeding, sampling, rows
        )

    def _enqueue(self, drafter: ReplicaName, message: draft_pb2.RoundRequest) -> None:
        link = self._links.get(drafter)
        if link is None:
            return  # the Lost event is on its way
        try:
            link.outbox.put_nowait(message)
        except asyncio.QueueFull:
            link.overflowed.set()

    async def _watch(self) -> None:
        """Follow the fleet: a task for each drafter that can serve us."""
        async for fleet in self._fleet.watch():
            wanted = {
                member.replica.name: member.replica
                for member in fleet.members
                if member.replica.role is Role.DRAFTER
                and member.replica.state is not ReplicaState.STARTING
                and member.replica.compatibility.projection_id == self._compatibility.projection_id
            }
            for name, (incarnation, task) in list(self._tasks.items()):
                if name not in wanted or wanted[name].incarnation != incarnation:
                    task.cancel()
                    del self._tasks[name]
            for name, replica in wanted.items():
                if name not in self._tasks and replica.state is ReplicaState.READY:
                    task = asyncio.create_task(self._keep(replica))
                    self._tasks[name] = (replica.incarnation, task)

    async def _keep(self, replica: Replica) -> None:
        """Connect, serve until the stream ends, and try again while the fleet lists it."""
        said = ""
        while True:
            try:
                await self._serve(replica)
                ended = "the stream ended"
            except grpc.aio.AioRpcError as error:
                ended = f"{error.code().name} {explained(error.details() or '', self._tls)}"
            except ValueError as error:
                ended = f"bad message: {error}"
            except asyncio.CancelledError:
                if told_to_stop():
                    raise
                ended = "the stream was cancelled"
            if ended != said:  # a drafter that stays away says so once
                log.info("drafter %s: %s", replica.name, ended)
                said = ended
            await asyncio.sleep(self._reconnect_s)

    async def _serve(self, replica: Replica) -> None:
        async with open_channel(replica.address, self._credentials) as channel:
            stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
            greeting = await stub.Handshake(
                common_pb2.HandshakeRequest(
                    compatibility=compatibility_to_wire(self._compatibility),
                    replica=self._replica,
                    incarnation=self._incarnation,
                ),
                timeout=_HANDSHAKE_TIMEOUT_S,
            )
            link = _Link(incarnation=Incarnation(greeting.incarnation), stub=stub)
            link.outbox.put_nowait(
                draft_pb2.RoundRequest(
                    hello=draft_pb2.RoundRequest.Hello(
                        replica=self._replica,
                        incarnation=self._incarnation,
                        projection_id=self._compatibility.projection_id,
                    )
                )
            )
            try:
                await self._exchange(replica, link)
            finally:
                if self._links.pop(replica.name, None) is not None:
                    self._post(Lost(drafter=replica.name, incarnation=link.incarnation))
                for task in link.seedings:
                    task.cancel()

    async def _exchange(self, replica: Replica, link: _Link) -> None:
        name = replica.name

        async def outgoing() -> AsyncIterator[draft_pb2.RoundRequest]:
            while True:
                yield await link.outbox.get()

        call = link.stub.Rounds(outgoing())

        async def watch_overflow() -> None:
            await link.overflowed.wait()
            log.warning("drafter %s does not read its rounds: dropped", name)
            call.cancel()

        guard = asyncio.create_task(watch_overflow())
        try:
            async for message in call:
                if name not in self._links:
                    # The answer to the hello: the stream is up, sessions may be seeded.
                    if message.incarnation != link.incarnation:
                        raise ValueError("another process answered than the one that was greeted")
                    self._links[name] = link
                    log.info("drafter %s connected", name)
                    self._post(
                        Connected(drafter=name, incarnation=link.incarnation, curve=replica.curve)
                    )
                    continue
                self._post(
                    Replied(
                        drafter=name, reply=reply_from_wire(message), num_bytes=message.ByteSize()
                    )
                )
        finally:
            call.cancel()
            guard.cancel()

    def _start_seeding(
        self,
        drafter: ReplicaName,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        link = self._links.get(drafter)
        if link is None:
            return
        task = asyncio.create_task(self._seed(drafter, link, session, seeding, sampling, rows))
        link.seedings.add(task)
        task.add_done_callback(link.seedings.discard)

    async def _seed(
        self,
        drafter: ReplicaName,
        link: _Link,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        async def chunks() -> AsyncIterator[draft_pb2.SeedRequest]:
            yield draft_pb2.SeedRequest(
                open=draft_pb2.SeedRequest.Open(
                    replica=self._replica,
                    incarnation=self._incarnation,
                    projection_id=self._compatibility.projection_id,
                    session=session,
                    sampling=sampling_to_wire(sampling),
                )
            )
            for start, chunk in rows:
                yield draft_pb2.SeedRequest(rows_start=start, rows=tensor_to_wire(chunk))

        status, cached = DraftStatus.NOT_SEEDED, 0
        with contextlib.suppress(grpc.aio.AioRpcError, ValueError):
            async with link.gate:
                answer = await link.stub.Seed(chunks(), timeout=_SEED_TIMEOUT_S)
            status, cached = status_from_wire(answer.status), answer.cached_rows
        self._post(
            Seeded(
                drafter=drafter,
                incarnation=link.incarnation,
                session=session,
                seeding=seeding,
                status=status,
                cached_rows=cached,
            )
        )
