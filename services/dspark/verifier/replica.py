"""A verifier process: target, engine, drafting, server, and its link to the controller."""

import asyncio
import logging
import queue
import time
from dataclasses import replace

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.core.curve import Curve
from dspark.core.draft import Rows
from dspark.core.fleet import LoadReport, ReplicaState, Role
from dspark.core.ids import Epoch, SessionId, Term
from dspark.core.pages import PageAllocator
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import DraftDesk
from dspark.drafting.links import DrafterLinks
from dspark.model.grammar import Grammars
from dspark.model.pair import PairIdentity, load_drafter_side
from dspark.model.ragged_target import RaggedTarget
from dspark.model.self_check import check_pair
from dspark.model.serving import compatibility, load_served_target, set_threads
from dspark.model.target import TargetRunner
from dspark.model.target_folder import local_folder
from dspark.paced.target import PacedTarget
from dspark.rpc.handshake import Greeter
from dspark.rpc.host import ReplicaHost
from dspark.telemetry import metrics
from dspark.verifier.budget_cell import BudgetCell
from dspark.verifier.calibration import CalibrationGauge
from dspark.verifier.engine import VerifierEngine
from dspark.verifier.events import EngineEvent
from dspark.verifier.guard import Guard
from dspark.verifier.prefill_link import PrefillLink
from dspark.verifier.profile import load_paced, profile_served
from dspark.verifier.report import report_load
from dspark.verifier.report_metrics import publish_report
from dspark.verifier.service import VerifyService
from dspark.verifier.spans import Carriers
from dspark.wire.v1 import verify_pb2_grpc

log = logging.getLogger(__name__)

SERVICE = "dspark.wire.v1.VerifyService"


class VerifierReplica:
    """Start, drain and stop one verifier."""

    def __init__(
        self,
        model: ModelSettings,
        endpoint: EndpointSettings,
        settings: VerifierSettings,
        *,
        name: str,
    ) -> None:
        self._model = model
        self._settings = settings
        self._host = ReplicaHost(
            endpoint, role=Role.VERIFIER, pool=settings.pool, name=name, service=SERVICE
        )
        self._inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._engine: VerifierEngine | None = None
        self._cell: BudgetCell | None = None
        self._links: DrafterLinks | None = None
        self._prefill: PrefillLink | None = None
        self._calibration: CalibrationGauge | None = None
        self._reported_bytes = {"rows": 0, "drafts": 0, "kv": 0}
        self._reported_outcomes: dict[str, int] = {}

    async def start(self) -> None:
        """Load, profile, serve, announce.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        identity, target, curve = await asyncio.to_thread(self._load)
        agreed = compatibility(self._model, identity)
        link = self._host.link
        link.start_watching_fleet()
        carriers = Carriers()
        self._prefill = PrefillLink(
            link.fleet,
            compatibility=agreed,
            post=self._inbox.put,
            timeout_s=self._settings.prefill_timeout_s,
            attempts=self._settings.prefill_attempts,
            want_rows=bool(identity.projection_id),
            hash_root=identity.target_digest.encode(),
            credentials=self._host.credentials,
            metadata_of=carriers.of,
        )
        desk = None
        if identity.projection_id:
            self._links = DrafterLinks(
                link.fleet,
                replica=self._host.name,
                incarnation=self._host.incarnation,
                compatibility=agreed,
                post=self._inbox.put,
                reconnect_s=self._settings.drafting.reconnect_s,
                credentials=self._host.credentials,
            )
            desk = self._desk(self._links, target)
            self._calibration = CalibrationGauge(
                pool=self._settings.pool, gamma=identity.block_size
            )
        self._cell = BudgetCell(curve_version="" if curve is None else curve.version)
        pages = PageAllocator(self._settings.num_pages, self._model.page_tokens)
        self._engine = VerifierEngine(
            target,
            pages,
            desk,
            self._prefill,
            self._cell,
            settings=self._settings,
            curve=curve,
            block_size=identity.block_size,
            model_name=self._model.name,
            hash_root=identity.target_digest.encode(),
            guard=self._guard(target, pages) if desk is not None else None,
            inbox=self._inbox,
        )
        self._engine.start()
        metrics.VLLM_CACHE_CONFIG.info(
            {
                "block_size": str(self._model.page_tokens),
                "num_gpu_blocks": str(self._settings.num_pages),
            }
        )
        if curve is not None:
            metrics.SPS_PROFILE_INFO.info({"version": curve.version, "device": curve.device})
        cell = self._cell
        link.start_watching_budget(
            self._settings.pool, lambda budget: cell.offer(budget, time.monotonic())
        )
        greeter = Greeter(agreed, replica=self._host.name, incarnation=self._host.incarnation)
        service = VerifyService(self._engine, greeter, carriers)
        self._host.server.add(
            lambda server: verify_pb2_grpc.add_VerifyServiceServicer_to_server(service, server)
        )
        await self._host.announce(agreed, self._report, curve=curve)

    def check_health(self) -> None:
        """Raise RuntimeError when the engine died."""
        if self._engine is not None and self._engine.failure is not None:
            raise RuntimeError(f"the verifier engine died: {self._engine.failure!r}")

    async def drain(self) -> None:
        """Take no new sessions; give open ones their time (what is left moves elsewhere)."""
        await self._host.drain(
            lambda: self._engine is None or self._engine.num_open == 0, self._settings.drain_s
        )

    async def stop(self) -> None:
        """Leave the fleet and free everything; open streams end with UNAVAILABLE."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop)
        await self._host.leave(0.5)
        if self._links is not None:
            await self._links.close()
        if self._prefill is not None:
            await self._prefill.close()

    def _guard(self, target: RaggedTarget | PacedTarget, pages: PageAllocator) -> Guard:
        return Guard(
            target,
            pages,
            self._settings.guard,
            pool=self._settings.pool,
            chunk_tokens=self._settings.prefill_chunk_tokens,
            byte_stable=self._model.device == "cpu",
        )

    def _desk(self, links: DrafterLinks, target: RaggedTarget | PacedTarget) -> DraftDesk:
        drafting = self._settings.drafting

        def rows(session: SessionId, start: int, stop: int) -> Rows:
            assert self._engine is not None
            return target.rows(self._engine.intake.sessions[session].pages, start, stop)

        return DraftDesk(
            links,
            rows=rows,
            deadline=Deadline(
                floor_s=drafting.deadline_floor_s,
                factor=drafting.deadline_factor,
                observed=metrics.DRAFT_RTT_SECONDS.labels(self._settings.pool).observe,
            ),
            seed_chunk_bytes=drafting.seed_chunk_bytes,
            max_opening_bytes=drafting.max_opening_bytes,
            max_sessions_per_drafter=drafting.max_sessions_per_drafter,
            vocab_size=target.vocab_size,
        )

    def _load(self) -> tuple[PairIdentity, RaggedTarget | PacedTarget, Curve | None]:
        set_threads(self._model)
        if self._model.paced is not None:
            return load_paced(self._model, self._settings)
        identity, runner = load_served_target(
            self._model,
            num_pages=self._settings.num_pages,
            max_batch_tokens=self._settings.max_batch_tokens,
        )
        self._check_pair(runner)
        target = RaggedTarget(
            runner,
            Grammars.of_folder(
                local_folder(self._model.target, what="target"), identity.vocab_size
            ),
        )
        if not self._settings.profile_at_start:
            return identity, target, None
        began_s = time.monotonic()
        curve = profile_served(
            target,
            self._model,
            self._settings,
            digest=identity.target_digest,
            clock=time.perf_counter,
        )
        log.info("profiled %d sizes in %.1f s", len(curve.points), time.monotonic() - began_s)
        return identity, target, curve

    def _check_pair(self, runner: TargetRunner) -> None:
        """Refuse a drafter whose drafts this target does not take.

        A wrong layer id or layout shows nowhere else: output stays right, only slow.
        """
        floor = self._model.min_accepted_length
        if self._model.drafter is None or floor is None:
            return
        _, drafter = load_drafter_side(self._model.target, self._model.drafter)
        measured = check_pair(runner, drafter, min_accepted_length=floor)
        log.info("self-check: mean accepted length %.2f", measured)

    def _report(self) -> LoadReport:
        engine, cell = self._engine, self._cell
        assert engine is not None
        assert cell is not None
        now_s = time.monotonic()
        observed = engine.window.take_observed()
        if self._calibration is not None:
            self._calibration.update(observed)
        desk = engine.desk
        totals = {
            "rows": 0 if desk is None else desk.row_bytes,
            "drafts": 0 if desk is None else desk.draft_bytes,
            "kv": engine.intake.kv_bytes,
        }
        outcomes = {} if desk is None else dict(desk.outcomes)
        fates = {
            cause: count - self._reported_outcomes.get(cause, 0)
            for cause, count in outcomes.items()
        }
        moved = {kind: total - self._reported_bytes[kind] for kind, total in totals.items()}
        report = replace(
            report_load(
                engine,
                observed,
                replica=self._host.name,
                incarnation=self._host.incarnation,
                state=self._host.state if engine.failure is None else ReplicaState.DRAINING,
                now_s=now_s,
            ),
            budget_epoch=Epoch(cell.epoch(now_s)) or None,
            budget_term=Term(cell.term) or None,
            draft_outcomes=fates,
            wire_bytes=moved,
        )
        self._reported_bytes, self._reported_outcomes = totals, outcomes
        publish_report(report, pool=self._settings.pool, model_name=self._model.name)
        return report
