import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.api.asks import TryOut
from dspark.controller.api.refusals import Refusal
from dspark.controller.api.try_out import MAX_AT_ONCE, Trials
from tests.controller.a_gateway import STEPS, a_gateway

ASKED = TryOut(prompt="def", max_tokens=8, temperature=0.5)


async def refused(events: AsyncGenerator[bytes, None]) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        await anext(events)
    assert refusal.value.hint
    return refusal.value


async def test_a_request_is_sent_on_with_a_trace_and_its_events_come_back() -> None:
    with a_gateway() as gateway:
        trials = Trials(gateway.url)
        text = b"".join([chunk async for chunk in trials.run(ASKED, "toy")]).decode()
    (body,) = gateway.asked
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("toy", "def", 8)
    assert body["speculation"] == {"trace": True}
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    steps = [json.loads(line)["choices"][0]["speculation"] for line in lines[:-2]]
    assert steps == list(STEPS)


async def test_what_cannot_be_sent_on_is_said_before_a_stream_begins() -> None:
    assert (await refused(Trials(None).run(ASKED, "toy"))).status == 409
    assert (await refused(Trials("http://127.0.0.1:9").run(ASKED, None))).status == 409
    assert (await refused(Trials("http://127.0.0.1:9").run(ASKED, "toy"))).status == 503
    with a_gateway() as gateway:
        for status, said in ((400, 422), (429, 429), (500, 503)):
            gateway.refusal = (status, "no such thing")
            refusal = await refused(Trials(gateway.url).run(ASKED, "toy"))
            assert (refusal.status, "no such thing" in refusal.message) == (said, True)


async def test_few_run_at_once_and_one_that_is_left_is_ended_and_makes_room() -> None:
    with a_gateway() as gateway:
        gateway.waits = True
        trials = Trials(gateway.url)
        running = [trials.run(ASKED, "toy") for _ in range(MAX_AT_ONCE)]
        for each in running:
            await anext(each)
        assert (await refused(trials.run(ASKED, "toy"))).status == 429
        for each in running:
            await each.aclose()
        assert await asyncio.to_thread(gateway.left.wait, 10.0)
        async with aclosing(trials.run(ASKED, "toy")) as again:
            assert await anext(again) == b""


async def test_a_gateway_that_breaks_off_is_told_as_an_event() -> None:
    with a_gateway() as gateway:
        gateway.breaks = True
        text = b"".join([chunk async for chunk in Trials(gateway.url).run(ASKED, "toy")]).decode()
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "gateway_lost"


def test_a_gateway_url_is_a_url() -> None:
    assert ControllerSettings(gateway_url="http://gateway:8000").gateway_url
    for wrong in ("gateway:8000", "file:///etc/passwd", "http://user@host", "http://host/a?b"):
        with pytest.raises(ValueError, match="gateway_url"):
            ControllerSettings(gateway_url=wrong)
