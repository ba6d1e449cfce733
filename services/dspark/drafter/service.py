"""gRPC in front of the drafter's engine: wire to core and back, nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TypeVar

import grpc
from grpc import aio

from dspark.core.draft import DraftStatus, Round, RoundReply
from dspark.core.ids import Incarnation, SessionId
from dspark.drafter.engine import DrafterEngine, VerifierKey
from dspark.rpc.handshake import Greeter
from dspark.wire.draft import reply_to_wire, round_from_wire, status_to_wire
from dspark.wire.sampling import sampling_from_wire
from dspark.wire.tensor import tensor_from_wire
from dspark.wire.v1 import common_pb2, draft_pb2, draft_pb2_grpc

log = logging.getLogger(__name__)

T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")

_MAX_QUEUED_REPLIES = 64


class DraftService(draft_pb2_grpc.DraftServiceServicer):
    """Rounds and seeding for any number of verifiers."""

    def __init__(
        self,
        engine: DrafterEngine,
        greeter: Greeter,
        *,
        incarnation: Incarnation,
        projection_id: str,
        vocab_size: int,
    ) -> None:
        self._engine = engine
        self._greeter = greeter
        self._incarnation = incarnation
        self._projection_id = projection_id
        self._vocab_size = vocab_size

    async def Handshake(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        return await self._greeter.answer(request, context)

    async def Rounds(  # noqa: D102
        self,
        request_iterator: AsyncIterator[draft_pb2.RoundRequest],
        context: aio.ServicerContext[draft_pb2.RoundRequest, draft_pb2.RoundResponse],
    ) -> AsyncIterator[draft_pb2.RoundResponse]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is a hello")
        assert first is not None
        await self._require_projection(first.hello.projection_id, context)
        verifier = VerifierKey(
            replica=first.hello.replica, incarnation=Incarnation(first.hello.incarnation)
        )
        log.info("verifier %s connected", verifier.replica)
        self._engine.attach(verifier)
        yield draft_pb2.RoundResponse(incarnation=self._incarnation)
        loop = asyncio.get_running_loop()
        # Bounded by ``post``; the end of the stream (None) always has room.
        replies: asyncio.Queue[RoundReply | None] = asyncio.Queue()

        def post(reply: RoundReply) -> None:
            # A verifier that does not read its answers loses the newest: they would be late.
            if replies.qsize() < _MAX_QUEUED_REPLIES:
                replies.put_nowait(reply)

        async def read() -> None:
            try:
                async for message in request_iterator:
                    round_ = round_from_wire(message)
                    self._require_anchors(round_)
                    self._engine.submit(
                        verifier,
                        round_,
                        lambda reply: loop.call_soon_threadsafe(post, reply),
                    )
            finally:
                replies.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (reply := await replies.get()) is not None:
                yield reply_to_wire(reply)
            await reader
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._engine.forget(verifier)
            log.info("verifier %s left", verifier.replica)

    def _require_anchors(self, round_: Round) -> None:
        """Refuse tokens outside the vocabulary: they would kill the engine for everybody."""
        for part in round_.sessions:
            if part.anchor >= self._vocab_size:
                raise ValueError(
                    f"session {part.session}: anchor {part.anchor} is not one of "
                    f"{self._vocab_size} tokens"
                )

    async def Seed(  # noqa: D102
        self,
        request_iterator: AsyncIterator[draft_pb2.SeedRequest],
        context: aio.ServicerContext[draft_pb2.SeedRequest, draft_pb2.SeedResponse],
    ) -> draft_pb2.SeedResponse:
        try:
            return await self._fill(request_iterator, context)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _fill(
        self,
        request_iterator: AsyncIterator[draft_pb2.SeedRequest],
        context: aio.ServicerContext[draft_pb2.SeedRequest, draft_pb2.SeedResponse],
    ) -> draft_pb2.SeedResponse:
        verifier: VerifierKey | None = None
        session = SessionId(0)
        cached = 0
        async for message in request_iterator:
            if verifier is None:
                if not message.HasField("open"):
                    await context.abort(
                        grpc.StatusCode.INVALID_ARGUMENT, "the first chunk opens the session"
                    )
                await self._require_projection(message.open.projection_id, context)
                verifier = VerifierKey(
                    replica=message.open.replica, incarnation=Incarnation(message.open.incarnation)
                )
                session = SessionId(message.open.session)
                if not await self._open(verifier, session, message.open.sampling):
                    return self._seeded(DraftStatus.FULL, 0)
            if message.HasField("rows"):
                cached = await self._seed(verifier, session, message)
                if cached < 0:
                    return self._seeded(DraftStatus.NOT_SEEDED, 0)
        return self._seeded(DraftStatus.OK, cached)

    async def _open(
        self, verifier: VerifierKey, session: SessionId, sampling: common_pb2.Sampling
    ) -> bool:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[bool] = loop.create_future()
        self._engine.open(
            verifier,
            session,
            sampling_from_wire(sampling),
            lambda ok: loop.call_soon_threadsafe(_resolve, opened, ok),
        )
        return await opened

    async def _seed(
        self, verifier: VerifierKey, session: SessionId, message: draft_pb2.SeedRequest
    ) -> int:
        # Awaiting each chunk is the stream's flow control: one chunk in memory a session.
        loop = asyncio.get_running_loop()
        cached: asyncio.Future[int] = loop.create_future()
        self._engine.seed(
            verifier,
            session,
            message.rows_start,
            tensor_from_wire(message.rows),
            lambda count: loop.call_soon_threadsafe(_resolve, cached, count),
        )
        return await cached

    def _seeded(self, status: DraftStatus, cached: int) -> draft_pb2.SeedResponse:
        return draft_pb2.SeedResponse(
            status=status_to_wire(status), cached_rows=cached, incarnation=self._incarnation
        )

    async def _require_projection(
        self, projection_id: str, context: aio.ServicerContext[Q, R]
    ) -> None:
        if projection_id != self._projection_id:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"projection_id: {self._projection_id!r} here, {projection_id!r} there: "
                "rows of another drafter checkpoint cannot be used",
            )


def _resolve(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)
