"""gRPC in front of the prefill engine: wire to core and back, nothing else."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from grpc import aio
from opentelemetry import trace

from dspark.core.fleet import Compatibility
from dspark.prefill.engine import Chunk, Job, Overloaded, PrefillEngine
from dspark.rpc.handshake import Greeter, require_match
from dspark.telemetry import tracing
from dspark.wire.tensor import tensor_to_wire
from dspark.wire.v1 import common_pb2, prefill_pb2, prefill_pb2_grpc


class PrefillService(prefill_pb2_grpc.PrefillServiceServicer):
    """Streams prompts' KV and rows to any number of verifiers."""

    def __init__(
        self, engine: PrefillEngine, greeter: Greeter, compatibility: Compatibility
    ) -> None:
        self._engine = engine
        self._greeter = greeter
        self._compatibility = compatibility

    async def Handshake(  # noqa: D102
        self,
        request: common_pb2.HandshakeRequest,
        context: aio.ServicerContext[common_pb2.HandshakeRequest, common_pb2.HandshakeResponse],
    ) -> common_pb2.HandshakeResponse:
        return await self._greeter.answer(request, context)

    async def Prefill(  # noqa: D102
        self,
        request: prefill_pb2.PrefillRequest,
        context: aio.ServicerContext[prefill_pb2.PrefillRequest, prefill_pb2.PrefillChunk],
    ) -> AsyncIterator[prefill_pb2.PrefillChunk]:
        await require_match(self._compatibility, request.compatibility, context)
        span = tracing.tracer().start_span(
            "prefill",
            context=tracing.parent_of(context.invocation_metadata() or ()),
            kind=trace.SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": "dspark.wire.v1.PrefillService",
                "rpc.method": "Prefill",
                "dspark.request_id": request.request_id,
                "dspark.prompt_tokens": len(request.token_ids),
                "dspark.held_pages": len(request.held_page_hashes),
            },
        )
        try:
            async with aclosing(self._chunks(request, context)) as chunks:
                async for chunk in chunks:
                    span.add_event("chunk", {"start": chunk.start, "tokens": chunk.num_tokens})
                    yield chunk
        finally:
            span.end()

    async def _chunks(
        self,
        request: prefill_pb2.PrefillRequest,
        context: aio.ServicerContext[prefill_pb2.PrefillRequest, prefill_pb2.PrefillChunk],
    ) -> AsyncGenerator[prefill_pb2.PrefillChunk, None]:
        loop = asyncio.get_running_loop()
        # Bounded by the engine: it computes no chunk while four are unread.
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        job = Job(
            tokens=tuple(request.token_ids),
            held_hashes=tuple(request.held_page_hashes),
            want_rows=request.want_rows,
            emit=lambda chunk: loop.call_soon_threadsafe(chunks.put_nowait, chunk),
        )
        try:
            self._engine.submit(job)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Overloaded as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        try:
            while True:
                chunk = await chunks.get()
                if chunk is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is stopping")
                yield _to_wire(chunk)
                self._engine.taken(job)
                if chunk.last_logits is not None:
                    return
        finally:
            self._engine.cancel(job)


def _to_wire(chunk: Chunk) -> prefill_pb2.PrefillChunk:
    return prefill_pb2.PrefillChunk(
        start=chunk.start,
        num_tokens=chunk.num_tokens,
        kv=prefill_pb2.KvPages(layers=[tensor_to_wire(layer) for layer in chunk.kv]),
        rows=None if chunk.rows is None else tensor_to_wire(chunk.rows),
        last_logits=None if chunk.last_logits is None else tensor_to_wire(chunk.last_logits),
        cached_tokens=chunk.cached_tokens,
    )
