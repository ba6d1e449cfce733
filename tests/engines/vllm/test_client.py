"""The client's thread against a drafter over real gRPC: found by its address alone."""

import asyncio
import queue
from pathlib import Path
from typing import TypeVar

import numpy as np

from dspark.config.verifier import DraftingSettings
from dspark.config.vllm import VllmSettings
from dspark.core.draft import DraftStatus, Round, SessionRound
from dspark.core.ids import ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.events import Connected, DraftEvent, Lost, Replied, Seeded
from dspark.engines.vllm.client import DraftClient
from dspark.rpc.credentials import Credentials
from tests.drafter.serving import PAIR, served
from tests.rpc.pki import Pki

E = TypeVar("E")


class Heard:
    """What the client's thread posts."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[DraftEvent] = queue.SimpleQueue()

    def first(self, kind: type[E]) -> E:
        event = self.events.get(timeout=20.0)
        assert isinstance(event, kind), event
        return event


async def _client(heard: Heard, settings: VllmSettings) -> DraftClient:
    """Start a client beside this loop, as its constructor waits for its own thread."""
    return await asyncio.to_thread(
        lambda: DraftClient(
            settings,
            name="vllm-1",
            compatibility=PAIR,
            post=heard.events.put,
            on_budget=lambda _: None,
        )
    )


async def test_a_drafter_is_found_seeded_asked_and_missed_when_it_goes() -> None:
    # Two loops: the drafter's is this test's, the client's lives in the client's thread.
    heard = Heard()
    async with served() as drafter:
        settings = VllmSettings(
            drafter="d",
            drafters=(drafter.replica.address,),
            drafting=DraftingSettings(reconnect_s=0.02),
        )
        client = await _client(heard, settings)
        connected = await asyncio.to_thread(heard.first, Connected)
        name = ReplicaName(drafter.replica.address)
        assert connected.drafter == name
        rows = np.ones((4, 1), dtype=np.float32)
        client.port.seed(name, SessionId(1), 1, Sampling(), [(0, rows)])
        assert (await asyncio.to_thread(heard.first, Seeded)).status is DraftStatus.OK
        part = SessionRound(
            session=SessionId(1), base_length=5, anchor=1, rows_start=4,
            rows=rows[:1], max_tokens=2,
        )  # fmt: skip
        client.port.send(name, Round(number=1, sessions=(part,)))
        answer = await asyncio.to_thread(heard.first, Replied)
        assert len(answer.reply.blocks[0].tokens) == 2
    await asyncio.to_thread(heard.first, Lost)
    await asyncio.to_thread(client.close)
    client.close()  # once more does nothing


async def test_a_drafter_with_tls_is_found_by_a_client_with_a_certificate(tmp_path: Path) -> None:
    pki, heard = Pki(tmp_path), Heard()
    async with served(credentials=Credentials(pki.settings())) as drafter:
        settings = VllmSettings(
            drafter="d", drafters=(drafter.replica.address,), tls=pki.settings()
        )
        client = await _client(heard, settings)
        connected = await asyncio.to_thread(heard.first, Connected)
        assert connected.drafter == drafter.replica.address
        await asyncio.to_thread(client.close)
