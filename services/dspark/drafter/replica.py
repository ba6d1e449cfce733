"""A drafter process: model, engine, server, and its link to the controller."""

import asyncio
import time
from collections.abc import Callable

from dspark.config.drafter import DrafterSettings
from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.core.curve import Curve
from dspark.core.fleet import LoadReport, ReplicaState, Role
from dspark.core.pairing import FIELDS_BY_ROLE
from dspark.drafter.engine import BlockModel, DrafterEngine, Totals
from dspark.drafter.profile import profile_served
from dspark.drafter.service import DraftService
from dspark.model.pair import PairIdentity, load_drafter_side
from dspark.model.serving import compatibility, set_threads
from dspark.paced.load import load_paced_drafter, profiled_on_paper
from dspark.rpc.handshake import Greeter
from dspark.rpc.host import ReplicaHost
from dspark.wire.v1 import draft_pb2_grpc

SERVICE = "dspark.wire.v1.DraftService"


class DrafterReplica:
    """Start, drain and stop one drafter."""

    def __init__(
        self,
        model: ModelSettings,
        endpoint: EndpointSettings,
        settings: DrafterSettings,
        *,
        name: str,
    ) -> None:
        if model.drafter is None:
            raise ValueError("model.drafter is null: a drafter pool needs a drafter checkpoint")
        self._model = model
        self._settings = settings
        self._host = ReplicaHost(
            endpoint, role=Role.DRAFTER, pool=settings.pool, name=name, service=SERVICE
        )
        self._engine: DrafterEngine | None = None
        self._reported = Totals()
        self._reported_s = 0.0

    async def start(self) -> None:
        """Load, serve, announce.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        identity, engine, curve = await asyncio.to_thread(self._load)
        self._engine = engine
        engine.start()
        agreed = compatibility(self._model, identity)
        greeter = Greeter(
            agreed,
            replica=self._host.name,
            incarnation=self._host.incarnation,
            # KV pages are the target's affair: engines that lay them out otherwise are served too.
            fields=FIELDS_BY_ROLE[Role.DRAFTER],
        )
        service = DraftService(
            engine,
            greeter,
            incarnation=self._host.incarnation,
            projection_id=identity.projection_id,
            vocab_size=identity.vocab_size,
        )
        self._host.server.add(
            lambda server: draft_pb2_grpc.add_DraftServiceServicer_to_server(service, server)
        )
        self._reported_s = time.monotonic()
        await self._host.announce(agreed, self._report, curve=curve)

    @property
    def address(self) -> str:
        """Where rounds are served; "" before the start."""
        return self._host.address

    def check_health(self) -> None:
        """Raise RuntimeError when the engine died."""
        if self._engine is not None and self._engine.failure is not None:
            raise RuntimeError(f"the drafter engine died: {self._engine.failure!r}")

    async def drain(self) -> None:
        """Send sessions away; answer rounds until they have gone or the time is up."""
        if self._engine is not None:
            self._engine.drain()
        await self._host.drain(
            lambda: self._engine is None or self._engine.num_sessions == 0, self._settings.drain_s
        )

    async def stop(self) -> None:
        """Leave the fleet and free everything."""
        await self._host.leave(0.2)
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop)

    def _load(self) -> tuple[PairIdentity, DrafterEngine, Curve | None]:
        assert self._model.drafter is not None
        set_threads(self._model)
        if self._model.paced is not None:
            identity, paced = load_paced_drafter(
                self._model, max_sessions=self._settings.max_sessions
            )
            on_paper = profiled_on_paper(paced, lambda clock: self._profile(identity, paced, clock))
            return identity, self._engine_of(paced), on_paper
        identity, drafter = load_drafter_side(
            self._model.target,
            self._model.drafter,
            max_sessions=self._settings.max_sessions,
            max_context_tokens=self._settings.max_context_tokens,
            max_q_tokens=self._settings.max_q_tokens,
        )
        curve = None
        if self._settings.profile_at_start:
            curve = self._profile(identity, drafter, time.perf_counter)
        return identity, self._engine_of(drafter), curve

    def _profile(
        self, identity: PairIdentity, drafter: BlockModel, clock: Callable[[], float]
    ) -> Curve:
        return profile_served(
            drafter,
            self._model,
            identity=identity,
            max_sessions=min(self._settings.max_batch_sessions, self._settings.max_sessions),
            clock=clock,
        )

    def _engine_of(self, drafter: BlockModel) -> DrafterEngine:
        return DrafterEngine(
            drafter,
            incarnation=self._host.incarnation,
            pool=self._settings.pool,
            max_batch_sessions=self._settings.max_batch_sessions,
            max_pending_rounds=self._settings.max_pending_rounds,
        )

    def _report(self) -> LoadReport:
        assert self._engine is not None
        now_s = time.monotonic()
        window_s = max(1e-6, now_s - self._reported_s)
        totals, before = self._engine.totals.copy(), self._reported
        self._reported, self._reported_s = totals, now_s
        busy_s = totals.busy_s - before.busy_s
        return LoadReport(
            replica=self._host.name,
            incarnation=self._host.incarnation,
            state=self._host.state if self._engine.failure is None else ReplicaState.DRAINING,
            window_s=window_s,
            active_sessions=self._engine.num_sessions,
            waiting_sessions=self._engine.num_waiting,
            busy_share=min(1.0, busy_s / window_s),
            steps=totals.batches - before.batches,
            batch_tokens=totals.drafted_tokens - before.drafted_tokens,
            step_s=busy_s,
            queue_s=(totals.queue_s - before.queue_s) / max(1, totals.rounds - before.rounds),
            wire_bytes={"rows": totals.row_bytes - before.row_bytes},
        )
