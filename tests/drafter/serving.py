"""A drafter with integers for a model, served over real gRPC on this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from dspark.config.endpoint import EndpointSettings
from dspark.core.fleet import Compatibility, Replica, Role
from dspark.core.ids import Incarnation
from dspark.drafter.engine import DrafterEngine
from dspark.drafter.service import DraftService
from dspark.rpc.credentials import Credentials
from dspark.rpc.handshake import Greeter
from dspark.rpc.server import RpcServer
from dspark.wire.v1 import draft_pb2_grpc
from tests.fakes import PAGE_TOKENS, VOCAB, FakeDrafter
from tests.fleet_examples import COMPATIBILITY, a_replica

PAIR = replace(
    COMPATIBILITY,
    vocab_size=VOCAB,
    block_size=3,
    page_tokens=PAGE_TOKENS,
    projection_id="p1",
    rows_dtype="float32",
)


class Served:
    """One drafter process, but for the process."""

    def __init__(
        self,
        name: str,
        incarnation: int,
        compatibility: Compatibility,
        credentials: Credentials | None = None,
    ) -> None:
        self.drafter = FakeDrafter(gamma=3)
        self.engine = DrafterEngine(
            self.drafter,
            incarnation=Incarnation(incarnation),
            pool="d",
            max_batch_sessions=32,
            max_pending_rounds=8,
        )
        self.server = RpcServer(EndpointSettings(), ["draft"], credentials)
        self.replica: Replica = a_replica(
            name, Role.DRAFTER, incarnation=incarnation, compatibility=compatibility
        )
        greeter = Greeter(compatibility, replica=name, incarnation=Incarnation(incarnation))
        service = DraftService(
            self.engine,
            greeter,
            incarnation=Incarnation(incarnation),
            projection_id=compatibility.projection_id,
            vocab_size=compatibility.vocab_size,
        )
        self.server.add(
            lambda server: draft_pb2_grpc.add_DraftServiceServicer_to_server(service, server)
        )

    async def start(self) -> None:
        self.engine.start()
        self.replica = replace(self.replica, address=await self.server.start())

    async def stop(self) -> None:
        await self.server.stop(0)
        self.engine.stop()
        assert self.engine.failure is None


@asynccontextmanager
async def served(
    name: str = "d1",
    *,
    incarnation: int = 5,
    compatibility: Compatibility = PAIR,
    credentials: Credentials | None = None,
) -> AsyncIterator[Served]:
    made = Served(name, incarnation, compatibility, credentials)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
