"""An OpenTelemetry collector of ten lines: keeps the spans that processes send over OTLP/gRPC."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span as it was received."""

    service: str
    instance: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self.came:
            for batch in request.resource_spans:
                resource = _values(batch.resource.attributes)
                for scope in batch.scope_spans:
                    for span in scope.spans:
                        self.spans.append(
                            Span(
                                service=resource["service.name"],
                                instance=resource["service.instance.id"],
                                name=span.name,
                                kind=span.kind,
                                trace=span.trace_id.hex(),
                                id=span.span_id.hex(),
                                parent=span.parent_span_id.hex(),
                                start=span.start_time_unix_nano,
                                end=span.end_time_unix_nano,
                                failed=span.status.code == 2,
                                attributes=_values(span.attributes),
                                events=[(e.name, _values(e.attributes)) for e in span.events],
                            )
                        )
            self.came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, names: set[str], timeout_s: float) -> dict[str, Span]:
        """Return the spans by name once all of these are here."""
        with self.came:
            here = self.came.wait_for(
                lambda: names <= {span.name for span in self.spans}, timeout_s
            )
            assert here, f"{names} wanted, {[span.name for span in self.spans]} came"
            return {span.name: span for span in self.spans}


def _values(pairs: "list[KeyValue]") -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


@contextmanager
def a_collector() -> Iterator[Collector]:
    """Serve one on a port of its own."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    collector = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
