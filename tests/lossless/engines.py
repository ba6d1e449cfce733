"""The real engines of a verifier and its drafters, joined by memory, over any target and models."""

import itertools
import queue
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import cast

from dspark.config.verifier import GuardSettings, VerifierSettings
from dspark.core.budget import ALL
from dspark.core.curve import Curve
from dspark.core.draft import Rows
from dspark.core.generation import Generation
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.pages import PageAllocator
from dspark.core.sampling import Sampling
from dspark.drafter.engine import BlockModel, DrafterEngine
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import DraftDesk
from dspark.local.memory_port import MemoryPort
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.engine import VerifierEngine
from dspark.verifier.events import EngineEvent
from dspark.verifier.guard import Guard, GuardTarget
from dspark.verifier.rounds import BudgetSource
from dspark.verifier.target_port import Target
from tests.verifier.harness import Collected

_STUCK_S = 300.0
"""Longer than a whole case takes on a busy machine: only an engine that hangs is so slow."""


class ChangingBudget:
    """Another entry at every look: a budget table under a load that never rests."""

    def __init__(self, entries: Sequence[int | None]) -> None:
        self._entries = itertools.cycle(entries)

    def weights(self, now_s: float) -> dict[int, float]:
        return {}

    def entry(self, *, sessions: int, mean_context_tokens: float, now_s: float) -> int | None:
        return next(self._entries)


class Engines:
    """A context manager; drafters come and go by ``connect`` and ``kill``."""

    def __init__(
        self,
        target: Target,
        *,
        gamma: int,
        page_tokens: int,
        num_pages: int,
        budget: BudgetSource | None = None,
        curve: Curve | None = None,
        max_sessions: int = 64,
        cohorts: int = 1,
        guard: GuardSettings | None = None,
    ) -> None:
        inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._target = target
        self._port = MemoryPort(inbox.put)
        self._drafters: dict[str, DrafterEngine] = {}
        self.engine: VerifierEngine

        def rows(session: SessionId, start: int, stop: int) -> Rows:
            return target.rows(self.engine.intake.sessions[session].pages, start, stop)

        desk = DraftDesk(
            self._port,
            rows=rows,
            deadline=Deadline(floor_s=30.0, factor=3.0),  # wait: these tests are about drafts
            seed_chunk_bytes=4096,
            max_opening_bytes=4096,
            max_sessions_per_drafter=max_sessions,
            vocab_size=target.vocab_size,
        )
        pages = PageAllocator(num_pages, page_tokens)
        self.engine = VerifierEngine(
            target,
            pages,
            desk,
            None,
            budget or FixedBudget(ALL),
            settings=VerifierSettings(
                max_sessions=max_sessions,
                max_waiting=1_000_000,
                max_batch_tokens=max_sessions * (1 + gamma),
                cohorts=cohorts,  # type: ignore[arg-type]
            ),
            curve=curve,
            block_size=gamma,
            model_name="toy",
            guard=None
            if guard is None
            else Guard(
                cast(GuardTarget, target), pages, guard, pool="toy", chunk_tokens=page_tokens
            ),
            inbox=inbox,
        )

    def connect(self, name: str, model: BlockModel) -> None:
        """Start a drafter and let the verifier have it."""
        incarnation = Incarnation(len(self._drafters) + 1)
        engine = DrafterEngine(
            model, incarnation=incarnation, pool="d", max_batch_sessions=64, max_pending_rounds=8
        )
        engine.start()
        self._drafters[name] = engine
        self._port.connect(ReplicaName(name), engine, incarnation)

    def kill(self, name: str) -> None:
        """Lose a drafter with everything that it was asked."""
        self._port.disconnect(ReplicaName(name))

    def submit(self, generation: Generation) -> Collected:
        sink = Collected()
        self.engine.submit(generation, sink)
        return sink

    def generate(self, generations: Sequence[Generation]) -> list[Collected]:
        """Run them all to their end, together."""
        sinks = [self.submit(generation) for generation in generations]
        for sink in sinks:
            assert sink.done.wait(_STUCK_S), f"stuck after {len(sink.tokens)} tokens"
        return sinks

    def __enter__(self) -> "Engines":
        self.engine.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.engine.stop()
        for drafter in self._drafters.values():
            drafter.stop()
        if error is None:
            assert self.engine.failure is None
            assert all(drafter.failure is None for drafter in self._drafters.values())


def run(
    engines: Engines, drafters: Mapping[str, BlockModel], generations: Sequence[Generation]
) -> list[Collected]:
    """Start the engines with these drafters, run the generations, stop."""
    with engines:
        for name, model in drafters.items():
            engines.connect(name, model)
        return engines.generate(generations)


def ask(
    prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, **more: object
) -> Generation:
    return Generation(
        request_id="r",
        prompt=tuple(prompt),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        **more,  # type: ignore[arg-type]
    )
