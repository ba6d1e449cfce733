import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import trace

from dspark.telemetry import tracing
from tests.gateway.fakes import FakeVerifier
from tests.gateway.test_http import Script, model, running, script
from tests.telemetry.otlp import Collector, a_collector
from tests.verifier.test_service import ask, client

__all__ = ["model", "script"]  # fixtures of the gateway's tests
PARENT = ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "b7ad6b7169203331")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with a_collector() as running_one:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running_one.url)
        tracing.start("test", "t1")
        try:
            yield running_one
        finally:
            tracing.stop()


def test_it_is_off_unless_a_collector_is_named() -> None:
    assert not tracing.wanted({})
    assert not tracing.wanted({"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert tracing.wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"})
    assert tracing.wanted({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"})
    assert not tracing.wanted(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_SDK_DISABLED": "true"}
    )
    tracing.start("test")
    assert not tracing.started()
    span = tracing.tracer().start_span("nothing")
    assert not span.is_recording()
    assert tracing.metadata_of(span) == ()
    tracing.flush()


def test_a_context_travels_as_metadata(collector: Collector) -> None:
    span = tracing.tracer().start_span(
        "here", context=tracing.parent_of([("traceparent", PARENT[0])])
    )
    there = tracing.tracer().start_span(
        "there", context=tracing.parent_of(tracing.metadata_of(span))
    )
    there.end()
    span.end()
    tracing.flush()
    got = collector.wait_for({"here", "there"}, 5.0)
    assert (got["here"].trace, got["here"].parent) == (TRACE, PARENT[1])
    assert (got["there"].trace, got["there"].parent) == (TRACE, got["here"].id)
    assert (got["here"].service, got["here"].instance) == ("dspark-test", "t1")
    empty = trace.get_current_span(tracing.parent_of([("traceparent", "nonsense")]))
    assert not empty.get_span_context().is_valid


async def test_a_verifier_tells_of_the_prompt_and_of_the_first_rounds(
    collector: Collector,
) -> None:
    async with client() as it:
        it.system.add_drafter("d1")
        call = it.stub.Generate(
            ask([1, 2, 3], 120), timeout=20.0, metadata=(("traceparent", PARENT[0]),)
        )
        last = [message async for message in call][-1]
    tracing.flush()
    got = collector.wait_for({"generate", "prompt", "decode"}, 5.0)
    whole, prompt, decode = got["generate"], got["prompt"], got["decode"]
    assert (whole.trace, whole.parent, whole.failed) == (TRACE, PARENT[1], False)
    assert {prompt.parent, decode.parent} == {whole.id}
    assert prompt.end <= decode.start
    assert whole.attributes["gen_ai.usage.output_tokens"] == 120
    assert decode.attributes["dspark.steps"] == last.stats.steps
    rounds = [attributes for name, attributes in decode.events if name == "round"]
    assert [each["round"] for each in rounds[:16]] == list(range(1, 17))
    assert all(each["round"] % 16 == 0 for each in rounds[16:]), "sampled from there on"
    assert len(rounds) < last.stats.steps
    assert rounds[0]["accepted"] + 1 == rounds[0]["committed"]


async def test_a_generation_that_is_left_is_no_success(collector: Collector) -> None:
    async with client(step_s=0.01) as it:
        call = it.stub.Generate(ask([1, 2, 3], 500), timeout=20.0)
        await call.read()
        call.cancel()
        for _ in range(100):
            tracing.flush()
            if any(span.name == "generate" for span in collector.spans):
                break
            await asyncio.sleep(0.02)
    assert collector.wait_for({"generate"}, 1.0)["generate"].failed


async def test_a_gateway_takes_up_the_callers_trace_and_passes_its_own_on(
    collector: Collector, model: object, script: Script
) -> None:
    verifier = FakeVerifier(script)
    body = {"model": "toy", "prompt": "x", "max_tokens": 4}
    async with running(model, verifier) as up:  # type: ignore[arg-type]
        headers = {"traceparent": PARENT[0]}
        assert (await up.http.post("/v1/completions", json=body, headers=headers)).is_success
        assert (await up.http.get("/health")).is_success
    tracing.flush()
    got = collector.wait_for({"POST /v1/completions", "VerifyService/Generate"}, 5.0)
    request, call = got["POST /v1/completions"], got["VerifyService/Generate"]
    assert (request.trace, request.parent, call.parent) == (TRACE, PARENT[1], request.id)
    assert verifier.metadata[0]["traceparent"] == f"00-{TRACE}-{call.id}-01"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["gen_ai.operation.name"] == "text_completion"
    assert ("first token", {}) in request.events
    assert len(collector.spans) == 2, "nobody wants a span of /health"
