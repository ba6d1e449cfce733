"""A prefill replica with integers for a model, served over real gRPC on this machine."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dspark.config.endpoint import EndpointSettings
from dspark.core.fleet import Compatibility, Replica, Role
from dspark.core.ids import Incarnation
from dspark.core.pages import PageAllocator
from dspark.prefill.engine import PrefillEngine
from dspark.prefill.service import PrefillService
from dspark.rpc.handshake import Greeter
from dspark.rpc.server import RpcServer
from dspark.wire.v1 import prefill_pb2_grpc
from tests.drafter.serving import PAIR
from tests.fakes import PAGE_TOKENS, FakeTarget
from tests.fleet_examples import a_replica

CHUNK = 8
ROOT = b"root"


class GatedTarget(FakeTarget):
    """Runs a prompt's first chunk at once, and the others only while the gate is open."""

    def __init__(self, num_pages: int) -> None:
        super().__init__(num_pages)
        self.gate = threading.Event()
        self.gate.set()

    def run(
        self, tokens: Sequence[int], start: int, pages: Sequence[int], *, want_logits: bool
    ) -> NDArray[np.float32] | None:
        assert start == 0 or self.gate.wait(10.0)
        return super().run(tokens, start, pages, want_logits=want_logits)


class Served:
    """One prefill process, but for the process."""

    def __init__(
        self,
        name: str,
        *,
        num_pages: int = 64,
        max_waiting: int = 4,
        compatibility: Compatibility = PAIR,
        hash_root: bytes = ROOT,
    ) -> None:
        self.target = GatedTarget(num_pages)
        self.engine = PrefillEngine(
            self.target,
            PageAllocator(num_pages, PAGE_TOKENS),
            chunk_tokens=CHUNK,
            max_waiting=max_waiting,
            model_name="fake",
            hash_root=hash_root,
        )
        self.server = RpcServer(EndpointSettings(), ["prefill"])
        self.replica: Replica = a_replica(name, Role.PREFILL, compatibility=compatibility)
        greeter = Greeter(compatibility, replica=name, incarnation=Incarnation(1))
        service = PrefillService(self.engine, greeter, compatibility)
        self.server.add(
            lambda server: prefill_pb2_grpc.add_PrefillServiceServicer_to_server(service, server)
        )

    async def start(self) -> None:
        self.engine.start()
        self.replica = replace(self.replica, address=await self.server.start())

    async def stop(self) -> None:
        self.target.gate.set()
        await self.server.stop(0)
        self.engine.stop()
        assert self.engine.failure is None


@asynccontextmanager
async def served(
    name: str = "p1",
    *,
    num_pages: int = 64,
    max_waiting: int = 4,
    compatibility: Compatibility = PAIR,
    hash_root: bytes = ROOT,
) -> AsyncIterator[Served]:
    made = Served(
        name,
        num_pages=num_pages,
        max_waiting=max_waiting,
        compatibility=compatibility,
        hash_root=hash_root,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
