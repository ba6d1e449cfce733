import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.api.asks import TryOut
from dspark.controller.api.refusals import Refusal
from dspark.controller.api.try_out import MAX_AT_ONCE, Trials
from dspark.rpc.https import server_context
from tests.controller.a_gateway import STEPS, a_gateway
from tests.rpc.pki import Pki, an_authority

ASKED = TryOut(prompt="def", max_tokens=8, temperature=0.5)


def to(gateway_url: str | None) -> Trials:
    return Trials(ControllerSettings(gateway_url=gateway_url))


async def refused(events: AsyncGenerator[bytes, None]) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        await anext(events)
    assert refusal.value.hint
    return refusal.value


async def test_a_request_is_sent_on_with_a_trace_and_its_events_come_back() -> None:
    with a_gateway() as gateway:
        trials = to(gateway.url)
        text = b"".join([chunk async for chunk in trials.run(ASKED, "toy")]).decode()
    (body,) = gateway.asked
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("toy", "def", 8)
    assert body["speculation"] == {"trace": True}
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    steps = [json.loads(line)["choices"][0]["speculation"] for line in lines[:-2]]
    assert steps == list(STEPS)


async def test_what_cannot_be_sent_on_is_said_before_a_stream_begins() -> None:
    assert (await refused(to(None).run(ASKED, "toy"))).status == 409
    assert (await refused(to("http://127.0.0.1:9").run(ASKED, None))).status == 409
    assert (await refused(to("http://127.0.0.1:9").run(ASKED, "toy"))).status == 503
    with a_gateway() as gateway:
        for status, said in ((400, 422), (429, 429), (500, 503)):
            gateway.refusal = (status, "no such thing")
            refusal = await refused(to(gateway.url).run(ASKED, "toy"))
            assert (refusal.status, "no such thing" in refusal.message) == (said, True)


async def test_few_run_at_once_and_one_that_is_left_is_ended_and_makes_room() -> None:
    with a_gateway() as gateway:
        gateway.waits = True
        trials = to(gateway.url)
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
        text = b"".join([chunk async for chunk in to(gateway.url).run(ASKED, "toy")]).decode()
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "gateway_lost"


def test_a_gateway_url_is_a_url() -> None:
    assert ControllerSettings(gateway_url="http://gateway:8000").gateway_url
    for wrong in ("gateway:8000", "file:///etc/passwd", "http://user@host", "http://host/a?b"):
        with pytest.raises(ValueError, match="gateway_url"):
            ControllerSettings(gateway_url=wrong)


async def tried(settings: ControllerSettings) -> bytes:
    return b"".join([chunk async for chunk in Trials(settings).run(ASKED, "toy")])


async def test_a_gateway_over_https_is_known_by_its_certificate_or_by_the_authority(
    tmp_path: Path,
) -> None:
    pki, theirs = Pki(tmp_path / "ours"), Pki(tmp_path / "theirs", an_authority("theirs"))
    pki.renew(["127.0.0.1", "dspark.internal"])
    with a_gateway(server_context(pki.https())) as gateway:
        url = gateway.url
        by_name = ControllerSettings(gateway_url=url, tls=pki.settings())
        assert b"[DONE]" in await tried(by_name)
        certificate = pki.folder / "certificate.pem"
        by_file = ControllerSettings(gateway_url=url, gateway_certificate=certificate)
        assert b"[DONE]" in await tried(by_file)
        strange = Trials(ControllerSettings(gateway_url=url, tls=theirs.settings()))
        refusal = await refused(strange.run(ASKED, "toy"))
        assert (refusal.status, "CERTIFICATE_VERIFY_FAILED" in refusal.message) == (503, True)
        gone = ControllerSettings(gateway_url=url, gateway_certificate=tmp_path / "gone.pem")
        refusal = await refused(Trials(gone).run(ASKED, "toy"))
        assert (refusal.status, "gone.pem: no such file" in refusal.message) == (503, True)
