"""The verifiers' gRPC, and the only file of the gateway that speaks it.

Every end of a call is turned into one of two causes: the verifier is *lost* (another one can go
on), or it *refused* (with what the client should be told).
"""

import logging
from collections.abc import AsyncGenerator, Collection
from enum import Enum
from typing import Protocol

import grpc
from grpc import aio
from opentelemetry import trace

from dspark.core.fleet import Replica
from dspark.core.generation import GenerationStats
from dspark.core.session import FinishReason
from dspark.gateway.routed import RoutedGeneration, TokenBatch
from dspark.rpc.channel import is_lost
from dspark.rpc.channels import Channels
from dspark.rpc.credentials import Credentials
from dspark.rpc.tls_problem import tls_problem
from dspark.telemetry import tracing
from dspark.wire.draft import judged_from_wire
from dspark.wire.logits import logprobs_from_wire, rules_to_wire
from dspark.wire.sampling import sampling_to_wire
from dspark.wire.v1 import verify_pb2, verify_pb2_grpc

log = logging.getLogger(__name__)

_FINISH = {
    verify_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    verify_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


class VerifierLost(Exception):
    """The stream broke; ``cause`` is one of few words, for a metric."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Refusal(Enum):
    """Why a verifier does not take a generation."""

    FULL = "full"  # later, or elsewhere
    NEVER_FITS = "never_fits"  # not in this verifier's cache, however empty
    BAD_REQUEST = "bad_request"
    TIMED_OUT = "timed_out"
    FAILED = "failed"  # mismatched pair and other faults of ours


class VerifierRefused(Exception):
    """The verifier answered, with something else than tokens."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message


class Verifiers(Protocol):
    """Runs one generation on one replica."""

    def generate(
        self, replica: Replica, routed: RoutedGeneration, timeout_s: float
    ) -> AsyncGenerator[TokenBatch, None]:
        """Yield the tokens that follow ``routed.generation.committed``.

        Closing the iterator cancels the generation.

        Raises:
            VerifierLost: Another replica can go on from the tokens received.
            VerifierRefused: See Refusal.
        """
        ...


class GrpcVerifiers:
    """Verifiers behind one channel for each address.

    Args:
        credentials: For mutual TLS; None: plaintext.
    """

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._tls = None if credentials is None else credentials.settings
        self._channels = Channels(credentials)

    async def generate(
        self, replica: Replica, routed: RoutedGeneration, timeout_s: float
    ) -> AsyncGenerator[TokenBatch, None]:
        """See Verifiers."""
        span = tracing.tracer().start_span(
            "VerifyService/Generate",
            kind=trace.SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "server.address": replica.address,
                "dspark.replica": replica.name,
                "dspark.request_id": routed.generation.request_id,
            },
        )
        # Where nothing is traced here, the caller's own context is passed on.
        metadata = tracing.metadata_of(span) or routed.metadata or None
        try:
            async with self._channels.use(replica.address) as channel:
                stub: verify_pb2_grpc.VerifyServiceAsyncStub = verify_pb2_grpc.VerifyServiceStub(
                    channel
                )
                call = stub.Generate(request_to_wire(routed), timeout=timeout_s, metadata=metadata)
                try:
                    async for message in call:
                        yield batch_from_wire(message)
                finally:
                    call.cancel()  # Without effect on a call that has ended.
        except aio.AioRpcError as error:
            span.set_status(trace.StatusCode.ERROR, error.code().name)
            problem = tls_problem(error.details() or "", self._tls)
            if problem is not None:  # for the log alone: no client of ours can mend it
                log.error("verifier %s at %s: %s", replica.name, replica.address, problem)
            raise failure(error) from error
        finally:
            span.end()

    async def keep(self, addresses: Collection[str]) -> None:
        """Close the idle channels to all but ``addresses``."""
        await self._channels.keep(addresses)

    async def close(self) -> None:
        """Close every channel."""
        await self._channels.close()


def request_to_wire(routed: RoutedGeneration) -> verify_pb2.GenerateRequest:
    """Convert for sending."""
    generation = routed.generation
    return verify_pb2.GenerateRequest(
        request_id=generation.request_id,
        prompt_token_ids=generation.prompt,
        committed_token_ids=generation.committed,
        max_new_tokens=generation.max_new_tokens,
        sampling=sampling_to_wire(generation.sampling),
        stop_token_ids=sorted(generation.stop_tokens),
        speculation=verify_pb2.GenerateRequest.Speculation(
            enabled=generation.speculate,
            max_draft_tokens=generation.max_draft_tokens,
            trace=generation.trace,
        ),
        model=routed.model,
        logit_rules=rules_to_wire(generation.rules),
        top_logprobs=generation.top_logprobs,
        priority=generation.priority,
    )


def batch_from_wire(message: verify_pb2.GenerateResponse) -> TokenBatch:
    """Convert."""
    return TokenBatch(
        token_ids=tuple(message.token_ids),
        finish=_FINISH.get(message.finish_reason),
        stats=_stats_from_wire(message.stats) if message.HasField("stats") else None,
        logprobs=tuple(logprobs_from_wire(each) for each in message.logprobs),
        draft=judged_from_wire(message.draft) if message.HasField("draft") else None,
    )


def _stats_from_wire(message: verify_pb2.GenerationStats) -> GenerationStats:
    return GenerationStats(
        block_size=max(0, len(message.accepted_histogram) - 1),
        steps=message.steps,
        drafted_steps=message.drafted_steps,
        plain_steps=message.plain_steps,
        drafted_tokens=message.drafted_tokens,
        verified_draft_tokens=message.verified_draft_tokens,
        accepted_draft_tokens=message.accepted_draft_tokens,
        cached_prompt_tokens=message.cached_prompt_tokens,
        row_bytes=message.row_bytes,
        draft_bytes=message.draft_bytes,
        accepted_histogram=list(message.accepted_histogram),
    )


def failure(error: aio.AioRpcError) -> VerifierLost | VerifierRefused:
    """Say whether the verifier is gone, or what it refused."""
    code, message = error.code(), error.details() or error.code().name.lower()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return VerifierRefused(Refusal.FULL, message)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return VerifierRefused(Refusal.NEVER_FITS, message)
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED):
        return VerifierRefused(Refusal.BAD_REQUEST, message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return VerifierRefused(Refusal.TIMED_OUT, message)
    if is_lost(error):
        return VerifierLost(code.name.lower(), message)
    return VerifierRefused(Refusal.FAILED, message)
