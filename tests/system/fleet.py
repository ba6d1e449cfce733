"""A whole system in one process: controller, prefill, drafter and verifier, over real gRPC.

The models are tiny and random; the replicas are those that Ray would place.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dspark.config.controller import ControllerSettings
from dspark.config.drafter import DrafterSettings
from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.prefill import PrefillSettings
from dspark.config.tls import TlsSettings
from dspark.config.verifier import DraftingSettings, VerifierSettings
from dspark.controller.loop import Controller
from dspark.controller.open_store import open_store
from dspark.controller.service import SERVICE_NAME, ControlService, add_control_service
from dspark.core.fleet import LoadReport, Role
from dspark.drafter.replica import DrafterReplica
from dspark.model.checkpoint import save_drafter
from dspark.prefill.replica import PrefillReplica
from dspark.rpc.channel import open_channel
from dspark.rpc.credentials import open_credentials
from dspark.rpc.server import RpcServer
from dspark.verifier.replica import VerifierReplica
from dspark.wire.v1 import verify_pb2, verify_pb2_grpc
from dspark.wire.v1.common_pb2 import Sampling
from tests.model import byte_tokenizer, tiny

PAGE_TOKENS = 8


def write_pair(folder: Path) -> ModelSettings:
    """A tiny random target and a tiny random drafter of it, on disk."""
    target = shutil.copytree(tiny.folder("qwen3"), folder / "target")
    byte_tokenizer.tokenizer().save(str(target / "tokenizer.json"))
    save_drafter(folder, tiny.drafter(), json.loads((target / "config.json").read_text()))
    return ModelSettings(
        name="tiny",
        target=str(target),
        drafter=str(folder),
        page_tokens=PAGE_TOKENS,
        min_accepted_length=None,  # random drafts are never accepted
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One generation, read to its end."""

    tokens: list[int]
    stats: verify_pb2.GenerationStats
    logprobs: list[float]


class System:
    """The controller and the replicas that are up."""

    def __init__(
        self,
        model: ModelSettings,
        controller: Controller,
        address: str,
        tls: TlsSettings | None = None,
    ) -> None:
        self.model = model
        self.controller = controller
        self.endpoint = EndpointSettings(controller=address, metrics=False, tls=tls)
        self.credentials = open_credentials(tls)
        self.replicas: dict[str, PrefillReplica | DrafterReplica | VerifierReplica] = {}

    async def _up(
        self, name: str, replica: PrefillReplica | DrafterReplica | VerifierReplica
    ) -> None:
        await replica.start()
        self.replicas[name] = replica

    async def up_drafter(self, name: str = "drafter-1") -> None:
        settings = DrafterSettings(drain_s=0.0, profile_at_start=False)
        await self._up(name, DrafterReplica(self.model, self.endpoint, settings, name=name))

    async def up_prefill(self, name: str = "prefill-1") -> None:
        settings = PrefillSettings(num_pages=32, chunk_tokens=32, drain_s=0.0)
        await self._up(name, PrefillReplica(self.model, self.endpoint, settings, name=name))

    async def up_verifier(self, name: str = "verifier-1", **settings: int) -> None:
        chosen = VerifierSettings(
            num_pages=96,
            max_sessions=3,
            max_batch_tokens=64,
            local_prefill_tokens=settings.get("local_prefill_tokens", 4),
            profile_repeats=1,
            drain_s=0.0,
            drafting=DraftingSettings(deadline_floor_s=2.0, reconnect_s=0.05),
        )
        await self._up(name, VerifierReplica(self.model, self.endpoint, chosen, name=name))

    async def down(self, name: str) -> None:
        await self.replicas.pop(name).stop()

    def load(self, name: str) -> LoadReport | None:
        """The last report of a replica, as watchers of the fleet see it."""
        fleet = self.controller.fleet.value
        for member in () if fleet is None else fleet.members:
            if member.replica.name == name:
                return member.load
        return None

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20.0):
            while not holds():  # noqa: ASYNC110 - other threads make it true
                await asyncio.sleep(0.01)

    async def drafters_connected(self, count: int) -> None:
        def connected() -> bool:
            load = self.load("verifier-1")
            return load is not None and load.connected_drafters == count

        await self.until(connected)

    async def generate(
        self,
        prompt: Sequence[int],
        count: int,
        sampling: Sampling,
        *,
        verifier: str = "verifier-1",
        speculate: bool = True,
        max_draft_tokens: int = 0,
        at: dict[int, Callable[[], object]] | None = None,
        rules: verify_pb2.LogitRules | None = None,
    ) -> Answer:
        """Run one generation; ``at`` says what happens once so many tokens have come.

        With rules it has log-probabilities, and may end with the tokenizer's stop token.
        """
        fleet = self.controller.fleet.value
        assert fleet is not None
        address = next(
            member.replica.address
            for member in fleet.ready(Role.VERIFIER)
            if member.replica.name == verifier
        )
        request = verify_pb2.GenerateRequest(
            request_id="r",
            prompt_token_ids=prompt,
            max_new_tokens=count,
            sampling=sampling,
            speculation=verify_pb2.GenerateRequest.Speculation(
                enabled=speculate, max_draft_tokens=max_draft_tokens
            ),
            logit_rules=rules,
            top_logprobs=None if rules is None else 1,
            stop_token_ids=[] if rules is None else [byte_tokenizer.STOP],
        )
        due = dict(at or {})
        tokens: list[int] = []
        logprobs: list[float] = []
        last = verify_pb2.GenerateResponse()
        async with open_channel(address, self.credentials) as channel:
            stub: verify_pb2_grpc.VerifyServiceAsyncStub = verify_pb2_grpc.VerifyServiceStub(
                channel
            )
            async for last in stub.Generate(request, timeout=30.0):
                tokens.extend(last.token_ids)
                logprobs.extend(each.logprob for each in last.logprobs)
                for mark in [mark for mark in due if mark <= len(tokens)]:
                    due.pop(mark)()
        assert last.finish_reason == verify_pb2.FINISH_REASON_LENGTH
        assert not due
        return Answer(tokens, last.stats, logprobs)


@asynccontextmanager
async def system(folder: Path, tls: TlsSettings | None = None) -> AsyncIterator[System]:
    """A system with a controller and no replica yet; ends everything in order."""
    # Random drafts are never accepted: with few samples the budget would soon say "off".
    settings = ControllerSettings(
        tick_s=0.05, report_interval_s=0.05, lease_s=5.0, min_samples=1_000_000
    )
    store = open_store(settings.store)
    controller = Controller(settings, store)
    server = RpcServer(EndpointSettings(), [SERVICE_NAME], open_credentials(tls))
    service = ControlService(controller, settings)
    server.add(lambda it: add_control_service(service, it))
    address = await server.start()
    ticking = asyncio.create_task(controller.run())
    made = System(write_pair(folder), controller, address, tls)
    try:
        yield made
    finally:
        for name in list(made.replicas):
            await made.down(name)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        await server.stop(0)
        store.close()
