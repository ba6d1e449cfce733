"""One verifier and one drafter in this process, on their own threads, joined by memory."""

import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from dspark.config.drafter import DrafterSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.core.budget import ALL
from dspark.core.curve import Curve
from dspark.core.draft import JudgedDraft, Rows
from dspark.core.fleet import Fleet, LoadReport, Member, Replica, ReplicaState, Role
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import Incarnation, PoolName, ReplicaName, SessionId, Term
from dspark.core.logits import TokenLogprobs
from dspark.core.pages import PageAllocator
from dspark.core.session import FinishReason
from dspark.drafter.engine import DrafterEngine
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import DraftDesk
from dspark.local.memory_port import MemoryPort
from dspark.local.pair import load_local_pair
from dspark.local.planner import LocalPlanner
from dspark.model.serving import set_threads
from dspark.verifier.budget_cell import BudgetCell, FixedBudget
from dspark.verifier.engine import VerifierEngine
from dspark.verifier.events import EngineEvent
from dspark.verifier.report import report_load

_TOKENS_PER_SESSION = 17
"""Room in a step for blocks of up to 16."""

_PROMPT_TOKENS = 256
"""Room in a step for prompts."""

_DRAFTER = ReplicaName("local-drafter")
_VERIFIER = ReplicaName("local-verifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How a local generation speculates.

    Attributes:
        enabled: False decodes plainly.
        max_draft_tokens: Largest draft; 0 for the block size.
        adaptive: Choose prefixes by a budget that a planner beside the engines makes of the
            measured curves and of what was accepted, until the first one by Algorithm 1; False
            verifies all.
    """

    enabled: bool = True
    max_draft_tokens: int = 0
    adaptive: bool = False

    @classmethod
    def parse(cls, text: str) -> "Speculation":
        """Read "off", "fixed:K" (verify K drafts a round) or "adaptive".

        Raises:
            ValueError: Anything else.
        """
        if text == "off":
            return cls(enabled=False)
        if text == "adaptive":
            return cls(adaptive=True)
        kind, _, count = text.partition(":")
        if kind == "fixed" and count.isdecimal() and int(count) > 0:
            return cls(max_draft_tokens=int(count))
        raise ValueError(f"speculation {text!r} is none of: off, adaptive, fixed:K with K >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a local generation; ``logprobs`` has one entry a token if it asked for them."""

    reason: FinishReason
    stats: GenerationStats
    logprobs: tuple[TokenLogprobs, ...] = ()


class _QueueSink:
    def __init__(self) -> None:
        self.events: queue.SimpleQueue[tuple[int, ...] | Ended | str] = queue.SimpleQueue()
        self.logprobs: list[TokenLogprobs] = []

    def commit(
        self,
        tokens: tuple[int, ...],
        stats: GenerationStats,
        logprobs: tuple[TokenLogprobs, ...] = (),
        draft: JudgedDraft | None = None,
    ) -> None:
        self.logprobs.extend(logprobs)
        self.events.put(tokens)

    def finish(self, reason: FinishReason, stats: GenerationStats) -> None:
        self.events.put(Ended(reason=reason, stats=stats, logprobs=tuple(self.logprobs)))

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        self.events.put(message)


class LocalSystem:
    """A context manager around the engines; ``stream`` runs one generation."""

    def __init__(
        self,
        model: ModelSettings,
        speculation: Speculation,
        *,
        num_pages: int = 256,
        max_sessions: int = 1,
        colocated: bool = False,
        latency_s: float = 0.0,
        profiled: bool = False,
    ) -> None:
        """Load the pair.

        Args:
            model: Which pair, and how it is laid out.
            speculation: How generations speculate.
            num_pages: Pages of the target's pool.
            max_sessions: Generations at once.
            colocated: Drafter and target take turns on one device, or on the cores of both.
            latency_s: One-way delay between them.
            profiled: Measure curves also where generations are not adaptive.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        set_threads(model)
        settings = VerifierSettings(
            num_pages=num_pages,
            max_sessions=max_sessions,
            max_batch_tokens=_TOKENS_PER_SESSION * max_sessions + _PROMPT_TOKENS,
            cohorts=1 if colocated else "auto",
            profile_repeats=5,  # a handful of sizes, and nothing to correct them later
        )
        self._pair = load_local_pair(
            model,
            settings,
            drafting=speculation.enabled and model.drafter is not None,
            profiling=speculation.adaptive or profiled,
            colocated=colocated,
        )
        self._inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._port = MemoryPort(self._inbox.put, latency_s=latency_s)
        self._drafter: DrafterEngine | None = None
        desk: DraftDesk | None = None
        if self._pair.drafter is not None:
            defaults = DrafterSettings()
            self._drafter = DrafterEngine(
                self._pair.drafter,
                incarnation=Incarnation(1),
                pool=defaults.pool,
                max_batch_sessions=max(defaults.max_batch_sessions, max_sessions),
                max_pending_rounds=defaults.max_pending_rounds,
            )
            desk = DraftDesk(
                self._port,
                rows=self._rows,
                # Nothing is lost in one process: wait for the draft, however slow the machine.
                deadline=Deadline(floor_s=30.0, factor=3.0),
                seed_chunk_bytes=settings.drafting.seed_chunk_bytes,
                max_opening_bytes=settings.drafting.max_opening_bytes,
                max_sessions_per_drafter=settings.drafting.max_sessions_per_drafter,
                vocab_size=self._pair.target.vocab_size,
            )
        curve = self._pair.curve
        cell = BudgetCell(curve_version="" if curve is None else curve.version)
        budget = cell if speculation.adaptive else FixedBudget(ALL)
        self._engine = VerifierEngine(
            self._pair.target,
            PageAllocator(num_pages, model.page_tokens),
            desk,
            None,
            budget,
            settings=settings,
            curve=curve,
            block_size=self._pair.block_size,
            model_name=model.name,
            inbox=self._inbox,
        )
        self._planner: LocalPlanner | None = None
        if speculation.adaptive and curve is not None and self._drafter is not None:
            self._planner = LocalPlanner(
                self._replicas(),
                report=self._report,
                offer=lambda issued: cell.offer(issued, time.monotonic()),
                max_sessions=max_sessions,
                max_cohorts=1 if colocated else 2,
            )

    @property
    def curve(self) -> Curve | None:
        """The target's curve, where it was measured."""
        return self._pair.curve

    def __enter__(self) -> "LocalSystem":
        self._engine.start()
        if self._drafter is not None:
            self._drafter.start()
            self._port.connect(_DRAFTER, self._drafter, Incarnation(1), self._pair.drafter_curve)
        if self._planner is not None:
            self._planner.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._planner is not None:
            self._planner.stop()
        self._engine.stop()
        self._port.close()
        if self._drafter is not None:
            self._drafter.stop()

    def fleet(self) -> Fleet:
        """Report what the verifier did lately, as a controller sees it.

        Where there is a planner, up to its last tick; else since the last call.
        """
        if self._planner is not None:
            return self._planner.fleet()
        verifier, *drafters = self._replicas()
        members = [
            Member(replica=verifier, load=self._report()),
            *(Member(replica=drafter) for drafter in drafters),
        ]
        return Fleet(term=Term(0), version=0, members=tuple(members))

    def stream(self, generation: Generation) -> Iterator[tuple[int, ...] | Ended]:
        """Yield committed tokens as they come, then how it ended.

        Raises:
            ValueError: The request cannot fit.
            RuntimeError: An engine died.
        """
        sink = _QueueSink()
        session = self._engine.submit(generation, sink)
        try:
            while True:
                event = sink.events.get()
                if isinstance(event, str):
                    raise RuntimeError(event)
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            self._engine.cancel(session)

    def _report(self) -> LoadReport:
        return report_load(
            self._engine,
            replica=_VERIFIER,
            incarnation=Incarnation(1),
            state=ReplicaState.READY,
            now_s=time.monotonic(),
        )

    def _replicas(self) -> list[Replica]:
        """Return the verifier, and the drafter where there is one."""
        verifier = self._replica(_VERIFIER, Role.VERIFIER, self._pair.curve)
        if self._drafter is None:
            return [verifier]
        return [verifier, self._replica(_DRAFTER, Role.DRAFTER, self._pair.drafter_curve)]

    def _replica(self, name: ReplicaName, role: Role, curve: Curve | None) -> Replica:
        return Replica(
            name=name,
            pool=PoolName(role.value),
            role=role,
            address="",
            incarnation=Incarnation(1),
            state=ReplicaState.READY,
            compatibility=self._pair.compatibility,
            curve=curve,
        )

    def _rows(self, session: SessionId, start: int, stop: int) -> Rows:
        return self._pair.target.rows(self._engine.intake.sessions[session].pages, start, stop)
