"""gRPC in front of the verifier's engine: wire to core and back, nothing else."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from grpc import aio

from dspark.core.draft import JudgedDraft
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import SessionId
from dspark.core.logits import TokenLogprobs
from dspark.core.session import FinishReason
from dspark.rpc.handshake import Greeter
from dspark.verifier.events import Sink
from dspark.verifier.refusals import NeverFits, Overloaded
from dspark.verifier.spans import Carriers, GenerationSpans
from dspark.wire.draft import judged_to_wire
from dspark.wire.logits import logprobs_to_wire, rules_from_wire
from dspark.wire.sampling import sampling_from_wire
from dspark.wire.v1 import common_pb2, verify_pb2, verify_pb2_grpc

_FINISH = {
    FinishReason.STOP: verify_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: verify_pb2.FINISH_REASON_LENGTH,
}


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str
    anywhere: bool


_Events = asyncio.Queue["verify_pb2.GenerateResponse | _Failed"]


class Outbox:
    """From the engine's thread to the streams' loop: what a step has for all streams, at once.

    A wake-up costs the engine a system call, in which the loop takes the interpreter and keeps it
    for as long as it has work: the step's other streams would wait, and the next step with them.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[_Events, verify_pb2.GenerateResponse | _Failed]] = deque()
        self._woken = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop."""
        self._loop = loop

    def put(self, events: _Events, event: "verify_pb2.GenerateResponse | _Failed") -> None:
        """Keep an event for a stream's queue until ``flush`` (any thread)."""
        self._waiting.append((events, event))

    def flush(self) -> None:
        """Have everything kept delivered soon (any thread)."""
        if self._waiting and not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before looking: what comes later wakes anew
        while self._waiting:
            events, event = self._waiting.popleft()
            events.put_nowait(event)


class _StreamSink:
    """Carries a session's events from the engine's thread to its stream.

    The queue is bounded by construction: a generation commits at most max_new_tokens tokens.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.events: _Events = asyncio.Queue()

    def commit(
        self,
        tokens: tuple[int, ...],
        stats: GenerationStats,
        logprobs: tuple[TokenLogprobs, ...] = (),
        draft: JudgedDraft | None = None,
    ) -> None:
        self._put(
            verify_pb2.GenerateResponse(
                token_ids=tokens,
                stats=_stats(stats),
                logprobs=[logprobs_to_wire(each) for each in logprobs],
                draft=None if draft is None else judged_to_wire(draft),
            )
        )

    def finish(self, reason: FinishReason, stats: GenerationStats) -> None:
        self._put(verify_pb2.GenerateResponse(finish_reason=_FINISH[reason], stats=_stats(stats)))

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        self._put(_Failed(message, anywhere))

    def _put(self, event: "verify_pb2.GenerateResponse | _Failed") -> None:
        self._outbox.put(self.events, event)


class Generations(Protocol):
    """What runs generations."""

    deliver: Callable[[], object]
    """To be called whenever sinks were given something."""

    def prepare(self, generation: Generation) -> None:
        """Do what makes ``submit`` of a grammar slow (any thread); ValueError where it is none."""

    def submit(self, generation: Generation, sink: Sink) -> SessionId:
        """Take a generation; raises NeverFits, Overloaded, or ValueError for what is not done."""

    def cancel(self, session: SessionId) -> None:
        """Drop it; unknown ones are ignored."""


class VerifyService(verify_pb2_grpc.VerifyServiceServicer):
    """One stream a generation."""

    def __init__(
        self, engine: Generations, greeter: Greeter, carriers: Carriers | None = None
    ) -> None:
        self._engine = engine
        self._greeter = greeter
        self._carriers = carriers or Carriers()
        self._outbox = Outbox()
        engine.deliver = self._outbox.flush

    async def Handshake(  # noqa: D102
        self,
        request: common_pb2.HandshakeRequest,
        context: aio.ServicerContext[common_pb2.HandshakeRequest, common_pb2.HandshakeResponse],
    ) -> common_pb2.HandshakeResponse:
        return await self._greeter.answer(request, context)

    async def Generate(  # noqa: D102
        self,
        request: verify_pb2.GenerateRequest,
        context: aio.ServicerContext[verify_pb2.GenerateRequest, verify_pb2.GenerateResponse],
    ) -> AsyncIterator[verify_pb2.GenerateResponse]:
        self._outbox.attach(asyncio.get_running_loop())
        sink = _StreamSink(self._outbox)
        metadata = context.invocation_metadata() or ()
        with GenerationSpans(request, metadata, self._carriers) as spans:
            try:
                generation = _generation(request)
                if generation.rules.grammar is not None:  # compiled beside this loop, and kept
                    await asyncio.to_thread(self._engine.prepare, generation)
                session = self._engine.submit(generation, sink)
            except (Overloaded, ValueError) as error:
                spans.fail(str(error))
                await context.abort(_refusal(error), str(error))
            try:
                while True:
                    event = await sink.events.get()
                    if isinstance(event, _Failed):
                        spans.fail(event.message)
                        code = (
                            grpc.StatusCode.ABORTED
                            if event.anywhere
                            else grpc.StatusCode.UNAVAILABLE
                        )
                        await context.abort(code, event.message)
                    spans.message(event)
                    yield event
                    if event.finish_reason:
                        return
            finally:
                self._engine.cancel(session)


def _refusal(error: Overloaded | ValueError) -> grpc.StatusCode:
    if isinstance(error, Overloaded):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, NeverFits):
        return grpc.StatusCode.OUT_OF_RANGE
    return grpc.StatusCode.INVALID_ARGUMENT


def _generation(request: verify_pb2.GenerateRequest) -> Generation:
    return Generation(
        request_id=request.request_id,
        prompt=tuple(request.prompt_token_ids),
        committed=tuple(request.committed_token_ids),
        max_new_tokens=request.max_new_tokens,
        sampling=sampling_from_wire(request.sampling),
        stop_tokens=frozenset(request.stop_token_ids),
        speculate=request.speculation.enabled,
        max_draft_tokens=request.speculation.max_draft_tokens,
        trace=request.speculation.trace,
        rules=rules_from_wire(request.logit_rules),
        top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        priority=request.priority,
    )


def _stats(stats: GenerationStats) -> verify_pb2.GenerationStats:
    return verify_pb2.GenerationStats(
        steps=stats.steps,
        drafted_steps=stats.drafted_steps,
        plain_steps=stats.plain_steps,
        drafted_tokens=stats.drafted_tokens,
        verified_draft_tokens=stats.verified_draft_tokens,
        accepted_draft_tokens=stats.accepted_draft_tokens,
        accepted_histogram=stats.accepted_histogram,
        cached_prompt_tokens=stats.cached_prompt_tokens,
        row_bytes=stats.row_bytes,
        draft_bytes=stats.draft_bytes,
    )
