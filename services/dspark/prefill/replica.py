"""A prefill process: model, engine, server, and its link to the controller."""

import asyncio
import time

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.prefill import PrefillSettings
from dspark.core.fleet import LoadReport, ReplicaState, Role
from dspark.core.pages import PageAllocator
from dspark.model.pair import PairIdentity
from dspark.model.ragged_target import RaggedTarget
from dspark.model.serving import compatibility, load_served_target, set_threads
from dspark.paced.load import load_paced_target
from dspark.prefill.engine import PrefillEngine, PrefillTarget
from dspark.prefill.service import PrefillService
from dspark.rpc.handshake import Greeter
from dspark.rpc.host import ReplicaHost
from dspark.wire.v1 import prefill_pb2_grpc

SERVICE = "dspark.wire.v1.PrefillService"


class PrefillReplica:
    """Start, drain and stop one prefill replica."""

    def __init__(
        self,
        model: ModelSettings,
        endpoint: EndpointSettings,
        settings: PrefillSettings,
        *,
        name: str,
    ) -> None:
        self._model = model
        self._settings = settings
        self._host = ReplicaHost(
            endpoint, role=Role.PREFILL, pool=settings.pool, name=name, service=SERVICE
        )
        self._engine: PrefillEngine | None = None
        self._reported_tokens = 0
        self._reported_busy_s = 0.0
        self._reported_s = 0.0

    async def start(self) -> None:
        """Load, serve, announce.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        identity, engine = await asyncio.to_thread(self._load)
        self._engine = engine
        engine.start()
        agreed = compatibility(self._model, identity)
        greeter = Greeter(agreed, replica=self._host.name, incarnation=self._host.incarnation)
        service = PrefillService(engine, greeter, agreed)
        self._host.server.add(
            lambda server: prefill_pb2_grpc.add_PrefillServiceServicer_to_server(service, server)
        )
        self._reported_s = time.monotonic()
        await self._host.announce(agreed, self._report, curve=None)

    def check_health(self) -> None:
        """Raise RuntimeError when the engine died."""
        if self._engine is not None and self._engine.failure is not None:
            raise RuntimeError(f"the prefill engine died: {self._engine.failure!r}")

    async def drain(self) -> None:
        """Take no new prompts; give running ones their time."""
        await self._host.drain(
            lambda: self._engine is None or self._engine.num_open == 0, self._settings.drain_s
        )

    async def stop(self) -> None:
        """Leave the fleet and free everything."""
        await self._host.leave(0.2)
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop)

    def _load(self) -> tuple[PairIdentity, PrefillEngine]:
        set_threads(self._model)
        if self._model.paced is not None:
            identity, paced = load_paced_target(self._model)
            return identity, self._engine_of(identity, paced)
        identity, runner = load_served_target(
            self._model,
            num_pages=self._settings.num_pages,
            max_batch_tokens=self._settings.chunk_tokens,
        )
        return identity, self._engine_of(identity, RaggedTarget(runner))

    def _engine_of(self, identity: PairIdentity, target: PrefillTarget) -> PrefillEngine:
        return PrefillEngine(
            target,
            PageAllocator(self._settings.num_pages, self._model.page_tokens),
            chunk_tokens=self._settings.chunk_tokens,
            max_waiting=self._settings.max_waiting,
            model_name=self._model.name,
            hash_root=identity.target_digest.encode(),
        )

    def _report(self) -> LoadReport:
        assert self._engine is not None
        now_s = time.monotonic()
        window_s = max(1e-6, now_s - self._reported_s)
        tokens, busy_s = self._engine.prompt_tokens, self._engine.busy_s
        report = LoadReport(
            replica=self._host.name,
            incarnation=self._host.incarnation,
            state=self._host.state if self._engine.failure is None else ReplicaState.DRAINING,
            window_s=window_s,
            active_sessions=self._engine.num_active,
            waiting_sessions=self._engine.num_waiting,
            free_pages=self._engine.pages.free_pages,
            total_pages=self._engine.pages.num_pages,
            busy_share=min(1.0, (busy_s - self._reported_busy_s) / window_s),
            step_s=busy_s - self._reported_busy_s,
            prompt_tokens=tokens - self._reported_tokens,
            queued_prompt_tokens=self._engine.queued_tokens,
        )
        self._reported_tokens, self._reported_busy_s = tokens, busy_s
        self._reported_s = now_s
        return report
