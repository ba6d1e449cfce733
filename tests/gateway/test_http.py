import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import openai
import pytest
import uvicorn
from openai.types.chat import ChatCompletionMessageParam

from dspark.config.gateway import GatewaySettings
from dspark.core.fleet import Fleet, Member
from dspark.gateway.http import Gateway
from dspark.gateway.served_model import ServedModel, load_served_model
from dspark.gateway.sessions import Sessions
from dspark.gateway.verifiers import GrpcVerifiers
from dspark.rpc.http import bind
from dspark.rpc.watch import Latest
from dspark.wire.v1 import verify_pb2
from tests.gateway.fakes import FakeVerifier, fleet_of, serving
from tests.gateway.toy_model import write_toy_model

TEXT = "the thé of €uro 😀, then the end"
EOS = 258


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return load_served_model("toy", str(write_toy_model(tmp_path_factory.mktemp("toy"))))


@pytest.fixture
def script(model: ServedModel) -> "Script":
    return Script(model)


@dataclass
class Script:
    """Every choice writes TEXT, its number in front, and ends it."""

    model: ServedModel
    text: str = TEXT

    def __call__(self, choice: int) -> Sequence[int]:
        return [*self.model.codec.encode(f"{choice} {self.text}"), EOS]


@dataclass
class Running:
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    fleet: Latest[Fleet]
    members: list[Member]
    gateway: Gateway


@asynccontextmanager
async def running(
    model: ServedModel, *verifiers: FakeVerifier, **settings: object
) -> AsyncIterator[Running]:
    """The real application on a real port, before real verifier servers."""
    async with serving(*verifiers) as members:
        limits = GatewaySettings.model_validate({"wait_for_verifier_s": 3.0} | settings)
        fleet = Latest(fleet_of(*members))
        calls = GrpcVerifiers()
        sessions = Sessions(
            fleet=fleet,
            verifiers=calls,
            failover_attempts=limits.failover_attempts,
            wait_for_verifier_s=limits.wait_for_verifier_s,
        )
        gateway = Gateway(settings=limits, model=model, sessions=sessions, fleet=fleet)
        sock = bind("127.0.0.1", 0, what="a test")
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(gateway.app(), log_config=None, loop="asyncio"))
        task = asyncio.create_task(server._serve([sock]))
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        try:
            async with client, httpx.AsyncClient(base_url=url, timeout=20) as http:
                yield Running(
                    client=client, http=http, fleet=fleet, members=members, gateway=gateway
                )
        finally:
            server.should_exit = True
            await task
            await calls.close()
        assert gateway.in_flight == 0


CHAT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


async def test_the_openai_client_lists_models(model: ServedModel, script: Script) -> None:
    async with running(model) as up:
        listed = await up.client.models.list()
        assert [entry.id for entry in listed.data] == ["toy"]
        assert (await up.client.models.retrieve("toy")).id == "toy"
        with pytest.raises(openai.NotFoundError):
            await up.client.models.retrieve("other/one")


async def test_a_completion_has_text_usage_and_acceptance(
    model: ServedModel, script: Script
) -> None:
    async with running(model, FakeVerifier(script)) as up:
        got = await up.client.completions.create(model="toy", prompt="hi", max_tokens=100)
    assert got.choices[0].text == f"0 {TEXT}"
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (2, len(script(0)))
    assert got.to_dict()["metrics"] == {
        "speculative_decoding": {
            "mean_acceptance_length": 3.0,
            "draft_acceptance_rate": 0.5,
            "acceptance_histogram": [1, 1, 0, 1, 1, 0, 0, 0],
            "num_spec_steps": 4,
            "num_accepted_draft_tokens": 8,
            "num_draft_tokens": 16,
            "num_spec_tokens": 7,
        },
        "dspark": {
            "steps": 5, "plain_steps": 1, "drafted_tokens": 20, "row_bytes": 1000,
            "draft_bytes": 100,
        },
    }  # fmt: skip


async def test_a_streamed_chat_is_the_whole_chat_in_pieces(
    model: ServedModel, script: Script
) -> None:
    async with running(model, FakeVerifier(script, chunk_tokens=1)) as up:
        stream = await up.client.chat.completions.create(
            model="toy", messages=CHAT, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        whole = await up.client.chat.completions.create(model="toy", messages=CHAT)
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == f"0 {TEXT}" == whole.choices[0].message.content
    assert not any("�" in text for text in texts)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].to_dict()["metrics"] == whole.to_dict()["metrics"]


async def test_the_stream_is_server_sent_events_up_to_done(
    model: ServedModel, script: Script
) -> None:
    body = {"model": "toy", "prompt": "x", "max_tokens": 4, "stream": True}
    async with running(model, FakeVerifier(script, chunk_tokens=2)) as up:
        got = await up.http.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.headers["x-request-id"] == "mine"
    lines = [line for line in got.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == f"0 {TEXT}"[:5]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_may_carry_the_usage_so_far_and_the_token_ids(
    model: ServedModel, script: Script
) -> None:
    body = {
        "model": "toy", "prompt": "x", "max_tokens": 5, "stream": True, "return_token_ids": True,
        "stream_options": {"continuous_usage_stats": True},
    }  # fmt: skip
    async with running(model, FakeVerifier(script, chunk_tokens=2)) as up:
        got = await up.http.post("/v1/completions", json=body)
    chunks = [json.loads(line[6:]) for line in got.text.split("\n\n")[:-2]]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [2, 4, 5, 5]
    assert [i for chunk in chunks for i in chunk["choices"][0]["token_ids"]] == script(0)[:5]


async def test_a_trace_shows_each_steps_draft_and_changes_no_text(
    model: ServedModel, script: Script
) -> None:
    asked = {"model": "toy", "prompt": "hi", "max_tokens": 100, "n": 2, "stream": True}
    trace = {"speculation": {"trace": True}}
    async with running(model, FakeVerifier(script)) as up:
        plain = await up.http.post("/v1/completions", json=asked)
        traced = await up.http.post("/v1/completions", json=asked | trace)
        whole = await up.http.post("/v1/completions", json=asked | trace | {"stream": False})
    assert whole.status_code == 400
    assert "'stream' is true" in whole.json()["error"]["message"]
    without, choices = (
        [
            choice
            for line in got.text.split("\n\n")[:-2]
            for choice in json.loads(line[6:])["choices"]
        ]
        for got in (plain, traced)
    )
    assert not any("speculation" in choice for choice in without)
    for number in range(2):
        mine = [choice for choice in choices if choice["index"] == number]
        assert "".join(choice["text"] for choice in mine) == f"{number} {TEXT}"
        steps = [choice["speculation"] for choice in mine if "speculation" in choice]
        assert sum(len(step["committed"]) for step in steps) == len(script(number))
        assert steps[0] == {
            "committed": [str(number), " ", "th"],
            "draft": [
                {"token": str(number), "confidence": 0.9},
                {"token": " ", "confidence": 0.9},
                {"token": "!", "confidence": 0.25},
                {"token": '"', "confidence": 0.125},
            ],
            "verified": 3,
            "accepted": 2,
        }


async def test_n_choices_come_from_noise_of_their_own(model: ServedModel, script: Script) -> None:
    fake = FakeVerifier(script)
    async with running(model, fake) as up:
        got = await up.client.chat.completions.create(model="toy", messages=CHAT, n=3, seed=5)
        stream = await up.client.chat.completions.create(
            model="toy", messages=CHAT, n=3, seed=5, stream=True
        )
        streamed = ["", "", ""]
        async for chunk in stream:
            choice = chunk.choices[0]
            streamed[choice.index] += choice.delta.content or ""
    texts = [choice.message.content for choice in got.choices]
    assert texts == [f"{choice} {TEXT}" for choice in range(3)] == streamed
    assert {(r.sampling.seed, r.sampling.choice) for r in fake.requests} == {(5, 0), (5, 1), (5, 2)}
    assert got.to_dict()["metrics"] == {"speculative_decoding": None, "dspark": None}


@pytest.mark.parametrize("chunk_tokens", [1, 3, 50])
async def test_text_ends_before_a_stop_string_and_the_verifier_is_told(
    model: ServedModel, script: Script, chunk_tokens: int
) -> None:
    fake = FakeVerifier(script, chunk_tokens=chunk_tokens, pause_s=0.005)
    async with running(model, fake) as up:
        got = await up.client.completions.create(
            model="toy", prompt="x", max_tokens=100, stop=["uro ", "zzz"], stream=True,
            stream_options={"include_usage": True}, extra_body={"return_token_ids": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in got]
        if chunk_tokens < 50:
            await asyncio.wait_for(fake.cancelled.wait(), 2)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "0 the thé of €"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    counted = len(model.codec.encode("0 the thé of €uro "))
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == counted
    ids = [i for c in chunks if c.choices for i in c.choices[0].to_dict()["token_ids"]]  # type: ignore[attr-defined]
    assert ids == list(script(0))[:counted]


async def test_errors_have_openais_shape_and_name_the_parameter(
    model: ServedModel, script: Script
) -> None:
    async with running(model, FakeVerifier(script)) as up:
        with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist"):
            await up.client.chat.completions.create(model="gpt-9", messages=CHAT)
        with pytest.raises(openai.BadRequestError, match=r"128.*202") as caught:
            await up.client.completions.create(model="toy", prompt="hi", max_tokens=200)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as caught:
            await up.client.chat.completions.create(
                model="toy", messages=CHAT, functions=[{"name": "f"}]
            )
        assert caught.value.param == "functions"
        bad = await up.http.post("/v1/completions", content=b"{")
        assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_json")
        missing = await up.http.get("/v1/nothing")
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, None)
        wrong = await up.http.get("/v1/completions")
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")


async def test_a_completion_has_logprobs_in_its_own_shape(
    model: ServedModel, script: Script
) -> None:
    async with running(model, FakeVerifier(script)) as up:
        got = await up.client.completions.create(
            model="toy", prompt="hi", logprobs=2, extra_body={"return_token_ids": True}
        )
        plain = await up.client.completions.create(model="toy", prompt="hi")
    choice = got.choices[0]
    assert plain.choices[0].logprobs is None
    assert choice.logprobs is not None
    tokens = script(0)[:16]
    texts = [model.spell(token).decode(errors="replace") for token in tokens]
    assert choice.logprobs.tokens == texts
    assert choice.logprobs.token_logprobs == pytest.approx([-token / 1000 for token in tokens])
    offsets, top = choice.logprobs.text_offset, choice.logprobs.top_logprobs
    assert offsets is not None
    for offset, text in zip(offsets, texts, strict=True):
        assert text == "\N{REPLACEMENT CHARACTER}" or choice.text[offset:].startswith(text)
    assert top is not None
    assert [set(each) for each in top] == [
        {model.spell(0).decode(), model.spell(1).decode(), text} for text in texts
    ]


async def test_a_chat_has_logprobs_in_its_own_shape_streamed_or_not(
    model: ServedModel, script: Script
) -> None:
    async with running(model, FakeVerifier(script)) as up:
        whole = await up.client.chat.completions.create(
            model="toy", messages=CHAT, logprobs=True, top_logprobs=1
        )
        stream = await up.client.chat.completions.create(
            model="toy", messages=CHAT, logprobs=True, top_logprobs=1, stream=True
        )
        pieces = []
        async for chunk in stream:
            logprobs = chunk.choices[0].logprobs
            pieces += logprobs.content or [] if logprobs else []
    assert whole.choices[0].logprobs is not None
    content = whole.choices[0].logprobs.content
    assert content is not None
    assert pieces == content
    assert [bytes(each.bytes or []) for each in content] == [model.spell(t) for t in script(0)]
    assert all(len(each.top_logprobs) == 1 for each in content)
    assert content[-1].token == "<eos>"


async def test_rules_reach_the_verifier(model: ServedModel, script: Script) -> None:
    verifier = FakeVerifier(script)
    async with running(model, verifier) as up:
        await up.client.chat.completions.create(
            model="toy",
            messages=CHAT,
            presence_penalty=0.5,
            frequency_penalty=-0.25,
            logit_bias={"7": 3, "2": -100},
            response_format={"type": "json_object"},
            extra_body={"repetition_penalty": 1.5},
        )
        with pytest.raises(openai.BadRequestError, match="look-around") as caught:
            await up.client.completions.create(
                model="toy", prompt="hi", extra_body={"structured_outputs": {"regex": "(?=a)"}}
            )
        assert caught.value.param == "structured_outputs"
    (request,) = verifier.requests
    assert request.logit_rules == verify_pb2.LogitRules(
        bias_token_ids=[2, 7], bias_values=[-100, 3], repetition_penalty=1.5,
        frequency_penalty=-0.25, presence_penalty=0.5, json_schema='{"type": "object"}',
    )  # fmt: skip
    assert not request.HasField("top_logprobs")


async def test_too_large_a_body_is_refused(model: ServedModel, script: Script) -> None:
    async with running(model, max_body_bytes=1024) as up:
        got = await up.http.post("/v1/completions", content=b" " * 2000)
    assert got.status_code == 413


async def test_without_a_verifier_the_answer_is_503_and_not_ready(model: ServedModel) -> None:
    async with running(model) as up:
        assert (await up.http.get("/ready")).status_code == 503
        assert (await up.http.get("/health")).status_code == 200
        for stream in (True, False):
            with pytest.raises(openai.InternalServerError) as caught:
                await up.client.completions.create(model="toy", prompt="x", stream=stream)
            assert caught.value.status_code == 503
            assert caught.value.response.headers["retry-after"] == "2"


async def test_more_requests_than_allowed_are_told_to_come_later(
    model: ServedModel, script: Script
) -> None:
    async with running(model, FakeVerifier(script, pause_s=0.1), max_concurrent=1) as up:
        stream = await up.client.completions.create(model="toy", prompt="x", stream=True)
        with pytest.raises(openai.RateLimitError) as caught:
            await up.client.completions.create(model="toy", prompt="x")
        assert caught.value.response.headers["retry-after"] == "1"
        await stream.close()


async def test_a_verifier_lost_in_the_middle_is_not_seen_by_the_client(
    model: ServedModel, script: Script
) -> None:
    dying = FakeVerifier(script, fail_after=9)
    steady = FakeVerifier(script)
    async with running(model, dying, steady) as up:
        up.fleet.set(fleet_of(up.members[0], version=2))
        stream = await up.client.completions.create(
            model="toy", prompt="x", max_tokens=100, stream=True
        )
        up.fleet.set(fleet_of(*up.members, version=3))
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == f"0 {TEXT}"
    assert list(steady.requests[0].committed_token_ids) == list(script(0))[:9]
    assert steady.requests[0].sampling == dying.requests[0].sampling


async def test_a_client_that_leaves_cancels_the_generation(
    model: ServedModel, script: Script
) -> None:
    fake = FakeVerifier(script, chunk_tokens=1, pause_s=0.05)
    async with running(model, fake) as up:
        body = {"model": "toy", "prompt": "x", "max_tokens": 100, "stream": True}
        async with up.http.stream("POST", "/v1/completions", json=body) as got:
            await anext(got.aiter_lines())
        await asyncio.wait_for(fake.cancelled.wait(), 2)
        fake.cancelled.clear()
        with pytest.raises(httpx.ReadTimeout):
            await up.http.post("/v1/completions", json=body | {"stream": False}, timeout=0.2)
        await asyncio.wait_for(fake.cancelled.wait(), 2)


async def test_an_error_in_the_middle_of_a_stream_is_an_event(
    model: ServedModel, script: Script
) -> None:
    fake = FakeVerifier(script, fail_after=6)
    async with running(model, fake, failover_attempts=1) as up:
        stream = await up.client.completions.create(
            model="toy", prompt="x", max_tokens=100, stream=True
        )
        texts: list[str] = []
        with pytest.raises(openai.APIError, match="1 verifiers were lost"):
            await read_into(texts, stream)
    assert texts
    assert f"0 {TEXT}".startswith("".join(texts))


async def test_metrics_traces_and_the_fleet_are_shown(model: ServedModel, script: Script) -> None:
    fake = FakeVerifier(script)
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    async with running(model, fake) as up:
        body = {"model": "toy", "prompt": "x"}
        await up.http.post("/v1/completions", json=body, headers={"traceparent": parent})
        fleet = (await up.http.get("/dspark/fleet")).json()
        text = (await up.http.get("/metrics")).text
    assert fake.metadata[0]["traceparent"] == parent
    assert [m["replica"]["name"] for m in fleet["members"]] == ["v0"]
    assert fleet["members"][0]["replica"]["state"] == "ready"
    assert 'dspark_http_requests_total{route="/v1/completions",status="200"}' in text
    assert 'vllm:time_to_first_token_seconds_count{model_name="toy"}' in text


async def read_into(texts: list[str], stream: openai.AsyncStream[openai.types.Completion]) -> None:
    async for chunk in stream:
        texts.append(chunk.choices[0].text)
