"""Spans of one generation: its prompt, then its rounds, as the stream's reader sees them.

Made beside the engine from the messages that leave it, so that tracing costs a step nothing.
"""

from collections.abc import Iterable
from typing import Self

from opentelemetry import trace

from dspark.telemetry import tracing
from dspark.wire.v1 import verify_pb2

_ROUNDS_IN_FULL = 16
_ONE_IN = 16  # of the later ones: a span has room for 128 events


class Carriers:
    """Trace context of generations whose prompt is on its way, by request id.

    The engine knows nothing of traces; the service puts, the link to prefill replicas asks.
    """

    def __init__(self) -> None:
        self._carried: dict[str, tracing.Metadata] = {}

    def put(self, request_id: str, span: trace.Span) -> None:
        """Keep a span's context until ``drop``."""
        metadata = tracing.metadata_of(span)
        if metadata:
            self._carried[request_id] = metadata

    def of(self, request_id: str) -> tracing.Metadata:
        """Return it; empty where nothing is traced (any thread)."""
        return self._carried.get(request_id, ())

    def drop(self, request_id: str) -> None:
        """Forget it."""
        self._carried.pop(request_id, None)


class GenerationSpans:
    """``generate`` with its children ``prompt`` and ``decode``; rounds are events of the latter.

    A context manager: all of them end with it.

    Args:
        request: What is generated.
        metadata: Of the call; may carry the caller's context.
        carriers: Gets the prompt's context.
    """

    def __init__(
        self,
        request: verify_pb2.GenerateRequest,
        metadata: Iterable[tuple[str, str | bytes]],
        carriers: Carriers,
    ) -> None:
        self._carriers = carriers
        self._request_id = request.request_id
        self._tracer = tracing.tracer()
        self._whole = self._tracer.start_span(
            "generate",
            context=tracing.parent_of(metadata),
            kind=trace.SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": "dspark.wire.v1.VerifyService",
                "rpc.method": "Generate",
                "gen_ai.request.model": request.model,
                "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
                "dspark.request_id": request.request_id,
                "dspark.continued_tokens": len(request.committed_token_ids),
                "dspark.speculation": request.speculation.enabled,
            },
        )
        self._part = self._child("prompt")
        carriers.put(request.request_id, self._part)
        self._last = verify_pb2.GenerationStats()
        self._tokens = 0
        self._rounds = 0
        self._failure: str | None = "the caller left"

    def message(self, message: verify_pb2.GenerateResponse) -> None:
        """Take in what is about to be sent."""
        if not self._whole.is_recording():
            return
        stats, last = message.stats, self._last
        if not self._tokens and message.token_ids:
            self._part.set_attribute("dspark.cached_prompt_tokens", stats.cached_prompt_tokens)
            self._part.end()
            self._whole.add_event("first token")
            self._part = self._child("decode")
        elif message.token_ids:
            self._rounds += 1
            if self._rounds <= _ROUNDS_IN_FULL or self._rounds % _ONE_IN == 0:
                self._part.add_event(
                    "round",
                    {
                        "round": self._rounds,
                        "drafted": stats.drafted_tokens - last.drafted_tokens,
                        "verified": stats.verified_draft_tokens - last.verified_draft_tokens,
                        "accepted": stats.accepted_draft_tokens - last.accepted_draft_tokens,
                        "committed": len(message.token_ids),
                    },
                )
        self._tokens += len(message.token_ids)
        self._last = stats
        if message.finish_reason:
            self._failure = None

    def fail(self, why: str) -> None:
        """Say why there is no more."""
        self._failure = why

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._carriers.drop(self._request_id)
        stats = self._last
        self._part.set_attributes(
            {
                "dspark.steps": stats.steps,
                "dspark.drafted_steps": stats.drafted_steps,
                "dspark.verified_draft_tokens": stats.verified_draft_tokens,
                "dspark.accepted_draft_tokens": stats.accepted_draft_tokens,
            }
        )
        self._whole.set_attribute("gen_ai.usage.output_tokens", self._tokens)
        if self._failure is not None:
            self._whole.set_status(trace.StatusCode.ERROR, self._failure)
        self._part.end()
        self._whole.end()

    def _child(self, name: str) -> trace.Span:
        return self._tracer.start_span(name, context=trace.set_span_in_context(self._whole))
