"""A verifier process with vLLM as its engine: engine, server, and its link to the controller.

Towards gateway, controller and drafters it is a verifier like any other.  Drafters and budgets
are the proposer's affair, inside vLLM's worker; it tells of each step over a line.
"""

import asyncio
import hashlib
import json
import logging
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark.core.curve import Curve
from dspark.core.fleet import LoadReport, ReplicaState, Role
from dspark.core.refinement import Refinement, StepCell
from dspark.engines.vllm.arguments import engine_arguments
from dspark.engines.vllm.engine import VllmEngine
from dspark.engines.vllm.generations import VllmGenerations
from dspark.engines.vllm.ledger import Ledger
from dspark.engines.vllm.line import NoteReceiver
from dspark.engines.vllm.notes import StepNote
from dspark.engines.vllm.port import EnginePort
from dspark.engines.vllm.profile import StepProbe, profile
from dspark.engines.vllm.report import report_load
from dspark.model.curve_cache import cached_curve
from dspark.model.pair import PairIdentity, read_pair
from dspark.model.serving import compatibility, curve_version, device_name
from dspark.rpc.handshake import Greeter
from dspark.rpc.host import ReplicaHost
from dspark.telemetry import metrics
from dspark.verifier.calibration import CalibrationGauge
from dspark.verifier.report_metrics import publish_report
from dspark.verifier.service import VerifyService
from dspark.verifier.window import LoadWindow
from dspark.wire.v1 import verify_pb2_grpc

log = logging.getLogger(__name__)

SERVICE = "dspark.wire.v1.VerifyService"

_LONGEST_FOLDER = 80
"""A socket's path holds 107 bytes."""

StartEngine = Callable[[dict[str, Any], str], EnginePort]
"""(arguments, model name) -> a running engine."""


class VllmReplica:
    """Start, drain and stop one verifier."""

    def __init__(
        self,
        model: ModelSettings,
        endpoint: EndpointSettings,
        settings: VerifierSettings,
        engine: VllmEngineSettings,
        *,
        name: str,
        start_engine: StartEngine = lambda arguments, name: VllmEngine(arguments, model_name=name),
    ) -> None:
        self._model = model
        self._endpoint = endpoint
        self._settings = settings
        self._how = engine
        self._start_engine = start_engine
        self._host = ReplicaHost(
            endpoint, role=Role.VERIFIER, pool=settings.pool, name=name, service=SERVICE
        )
        self._take: Callable[[StepNote], None] = lambda note: None
        self._line: NoteReceiver | None = None
        self._engine: EnginePort | None = None
        self._generations: VllmGenerations | None = None
        self._ledger: Ledger
        self._calibration: CalibrationGauge | None = None
        self._refinement: Refinement | None = None
        self._window = LoadWindow(time.monotonic())
        self._reported: dict[str, int] = {}
        self._warned = ""

    async def start(self) -> None:
        """Start the engine, profile, serve, announce.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        try:
            await self._start()
        except BaseException:
            await self._free()  # nobody stops a replica that did not start
            raise

    async def _start(self) -> None:
        drafted = self._how.drafts != "none"
        identity = await asyncio.to_thread(
            read_pair, self._model.target, self._model.drafter if drafted else None
        )
        usual = tempfile.gettempdir()
        short = usual if len(usual) <= _LONGEST_FOLDER else "/tmp"
        with tempfile.TemporaryDirectory(prefix="dspark-", dir=short) as folder:
            path = Path(folder) / "line"
            self._line = NoteReceiver(path, lambda note: self._take(note))
            asyncio.get_running_loop().add_reader(self._line.fileno(), self._line.drain)
            arguments = engine_arguments(
                self._model,
                self._settings,
                self._how,
                gamma=identity.block_size,
                endpoint=self._endpoint,
                line=path,
                seed=secrets.randbits(31),
            )
            # It connects the proposer, so that no file has to outlive the start.
            engine = await asyncio.to_thread(self._start_engine, arguments, self._model.name)
            self._engine = engine
            self._line.hide()
        curve = await self._curve(engine, identity)
        self._serve(engine, identity, curve)
        assert self._generations is not None
        agreed = replace(
            compatibility(self._model, identity), page_tokens=engine.capacity.block_tokens
        )
        greeter = Greeter(agreed, replica=self._host.name, incarnation=self._host.incarnation)
        service = VerifyService(self._generations, greeter)
        self._host.server.add(
            lambda server: verify_pb2_grpc.add_VerifyServiceServicer_to_server(service, server)
        )
        engine.gauges.serving = True
        await self._host.announce(agreed, self._report, curve=curve)

    def check_health(self) -> None:
        """Raise RuntimeError when the engine died."""
        if self._engine is not None and self._engine.failure is not None:
            raise RuntimeError(f"the verifier engine died: {self._engine.failure}")

    async def drain(self) -> None:
        """Take no new sessions; give open ones their time (what is left moves elsewhere)."""
        await self._host.drain(
            lambda: self._generations is None or self._generations.num_open == 0,
            self._settings.drain_s,
        )

    async def stop(self) -> None:
        """Leave the fleet and free everything; open streams end with UNAVAILABLE."""
        if self._generations is not None:
            await self._generations.close()
        await self._host.leave(0.5)
        await self._free()

    async def _free(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown)
        if self._line is not None:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()
            self._line = None

    async def _curve(self, engine: EnginePort, identity: PairIdentity) -> Curve | None:
        """Measure what a step costs, and tell the proposer; None where nobody asks for it."""
        if self._how.drafts != "pool":
            return None  # no budget reaches the engine
        curve = None
        if self._settings.profile_at_start:
            began_s = time.monotonic()
            curve = await self._measured(engine, identity)
            log.info(
                "curve of %d sizes after %.1f s", len(curve.points), time.monotonic() - began_s
            )
        await engine.take_curve(curve)
        return curve

    async def _measured(self, engine: EnginePort, identity: PairIdentity) -> Curve:
        version = _version(
            curve_version(self._model, identity.target_digest), engine.version, self._how
        )
        probe, loop = StepProbe(), asyncio.get_running_loop()
        self._take = probe.take
        # The file is read and written beside this loop, the steps are measured in it.
        return await asyncio.to_thread(
            cached_curve,
            self._model.curves,
            kind="verifier",
            version=version,
            sizes=f"vLLM, {self._settings.max_sessions} sessions, "
            f"{self._settings.max_batch_tokens} tokens, {engine.capacity.num_blocks} blocks of "
            f"{engine.capacity.block_tokens}, median of {self._settings.profile_repeats}",
            measure=lambda: asyncio.run_coroutine_threadsafe(
                profile(
                    engine,
                    probe,
                    gamma=identity.block_size,
                    max_sessions=self._settings.max_sessions,
                    max_batch_tokens=self._settings.max_batch_tokens,
                    vocab_size=identity.vocab_size,
                    version=version,
                    device=f"{device_name(self._model)}, vLLM",
                    repeats=self._settings.profile_repeats,
                ),
                loop,
            ).result(),
        )

    def _serve(self, engine: EnginePort, identity: PairIdentity, curve: Curve | None) -> None:
        """Begin the books: from here on steps are those of generations."""
        assert self._line is not None
        pool, capacity = self._settings.pool, engine.capacity
        self._refinement = None if curve is None else Refinement(curve)
        self._window = LoadWindow(time.monotonic())
        self._ledger = Ledger(
            self._window,
            pool=pool,
            model_name=self._model.name,
            block_size=identity.block_size,
            refinement=self._refinement,
        )
        if identity.projection_id:
            self._calibration = CalibrationGauge(pool=pool, gamma=identity.block_size)
        self._line.drain()
        self._take = self._ledger.take
        if self._how.drafts != "pool":
            engine.gauges.own_steps = self._ledger.take_own
        self._generations = VllmGenerations(
            engine,
            self._ledger,
            settings=self._settings,
            vocab_size=identity.vocab_size,
            speculates=self._how.drafts != "none",
            noted=self._how.drafts == "pool",
            listen=self._line.drain,
        )
        metrics.VLLM_CACHE_CONFIG.info(
            {
                "block_size": str(capacity.block_tokens),
                "num_gpu_blocks": str(capacity.num_blocks),
            }
        )
        if curve is not None:
            metrics.SPS_PROFILE_INFO.info({"version": curve.version, "device": curve.device})

    def _report(self) -> LoadReport:
        engine, generations = self._engine, self._generations
        assert engine is not None
        assert generations is not None
        observed = self._window.take_observed()
        if self._calibration is not None:
            self._calibration.update(observed)
        last = self._ledger.last
        fates, moved = self._news(last)
        cells: tuple[StepCell, ...] = ()
        if self._refinement is not None:
            self._refinement.fold()
            cells = self._refinement.cells
        report = report_load(
            self._window,
            observed,
            replica=self._host.name,
            incarnation=self._host.incarnation,
            state=self._host.state if engine.failure is None else ReplicaState.DRAINING,
            now_s=time.monotonic(),
            num_open=generations.num_open,
            gauges=engine.gauges,
            capacity=engine.capacity,
            last=last,
            fates=fates,
            moved=moved,
            cells=cells,
        )
        publish_report(report, pool=self._settings.pool, model_name=self._model.name)
        return report

    def _news(self, last: StepNote | None) -> tuple[dict[str, int], dict[str, int]]:
        """What happened to drafts, and what moved, since the last report."""
        if last is None:
            return {}, {}
        if last.failure and last.failure != self._warned:
            self._warned = last.failure
            log.error("drafting ended inside vLLM, which decodes plainly: %s", last.failure)
        totals = {"rows": last.row_bytes, "drafts": last.draft_bytes} | {
            f"outcome {cause}": count for cause, count in last.outcomes.items()
        }
        news = {name: total - self._reported.get(name, 0) for name, total in totals.items()}
        self._reported = totals
        moved = {kind: news[kind] for kind in ("rows", "drafts")}
        return {cause: news[f"outcome {cause}"] for cause in last.outcomes}, moved


def _version(own: str, version: str, engine: VllmEngineSettings) -> str:
    """Digest of what the curve is bound to beside model, device and our software."""
    parts = (own, "vllm", version, engine.model_dump_json(exclude={"python"}))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
