"""A verifier and its drafters in one process, over integer fakes."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dspark.config.verifier import DraftingSettings, GuardSettings, VerifierSettings
from dspark.core.curve import Curve
from dspark.core.draft import JudgedDraft
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.logits import TokenLogprobs
from dspark.core.pages import PageAllocator
from dspark.core.session import FinishReason
from dspark.drafter.engine import DrafterEngine
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import DraftDesk
from dspark.local.memory_port import MemoryPort
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.engine import VerifierEngine
from dspark.verifier.events import EngineEvent, PrefillPort
from dspark.verifier.guard import Guard
from dspark.verifier.rounds import BudgetSource
from tests.fakes import PAGE_TOKENS, VOCAB, FakeDrafter, FakeTarget

GAMMA = 7


class Collected:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.reason: FinishReason | None = None
        self.stats: GenerationStats | None = None
        self.error: str | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.drafts: list[tuple[tuple[int, ...], JudgedDraft | None]] = []
        self.anywhere = False
        self.done = threading.Event()
        self.some = threading.Event()

    def commit(
        self,
        tokens: tuple[int, ...],
        stats: GenerationStats,
        logprobs: tuple[TokenLogprobs, ...] = (),
        draft: JudgedDraft | None = None,
    ) -> None:
        self.tokens.extend(tokens)
        self.drafts.append((tokens, draft))
        self.logprobs.extend(logprobs)
        if len(self.tokens) > 8:
            self.some.set()

    def finish(self, reason: FinishReason, stats: GenerationStats) -> None:
        self.reason, self.stats = reason, stats
        self.done.set()

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        self.error, self.anywhere = message, anywhere
        self.done.set()

    def wait(self) -> "Collected":
        assert self.done.wait(30.0), f"stuck after {len(self.tokens)} tokens"
        return self


class System:
    """What a test drives."""

    def __init__(
        self,
        *,
        num_pages: int = 256,
        budget: BudgetSource | None = None,
        prefill: PrefillPort | None = None,
        curve: Curve | None = None,
        drafting: bool = True,
        deadline_floor_s: float = 2.0,
        max_opening_bytes: int = 4096,
        drafting_settings: DraftingSettings | None = None,
        step_s: float = 0.0,
        target: type[FakeTarget] = FakeTarget,
        port: type[MemoryPort] = MemoryPort,
        guard: GuardSettings | None = None,
        byte_stable: bool = True,
        **settings: int,
    ) -> None:
        self.inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self.target = target(num_pages, step_s=step_s)
        self.port = port(self.inbox.put)
        self.drafters: dict[ReplicaName, tuple[FakeDrafter, DrafterEngine]] = {}
        pages = PageAllocator(num_pages, PAGE_TOKENS)
        self.engine: VerifierEngine

        def rows(session: SessionId, start: int, stop: int):  # type: ignore[no-untyped-def]
            return self.target.rows(self.engine.intake.sessions[session].pages, start, stop)

        desk = DraftDesk(
            self.port,
            rows=rows,
            deadline=Deadline(floor_s=deadline_floor_s, factor=3.0),
            seed_chunk_bytes=64,
            max_opening_bytes=max_opening_bytes,
            max_sessions_per_drafter=64,
            vocab_size=VOCAB,
        )
        self.engine = VerifierEngine(
            self.target,
            pages,
            desk if drafting else None,
            prefill,
            budget or FixedBudget(),
            settings=VerifierSettings(
                drafting=drafting_settings or DraftingSettings(),
                **settings,  # type: ignore[arg-type]
            ),
            curve=curve,
            block_size=GAMMA,
            model_name="fake",
            guard=None
            if guard is None
            else Guard(
                self.target, pages, guard, pool="v", chunk_tokens=8, byte_stable=byte_stable
            ),
            inbox=self.inbox,
        )

    def add_drafter(
        self, name: str, drafter: FakeDrafter | None = None, *, curve: Curve | None = None
    ) -> FakeDrafter:
        drafter = drafter or FakeDrafter(GAMMA)
        incarnation = Incarnation(len(self.drafters) + 1)
        engine = DrafterEngine(
            drafter, incarnation=incarnation, pool="d", max_batch_sessions=32, max_pending_rounds=8
        )
        engine.start()
        self.drafters[ReplicaName(name)] = (drafter, engine)
        self.port.connect(ReplicaName(name), engine, incarnation, curve)
        return drafter

    def remove_drafter(self, name: str) -> None:
        self.port.disconnect(ReplicaName(name))

    def generate(self, generation: Generation) -> Collected:
        sink = Collected()
        self.engine.submit(generation, sink)
        return sink


@contextmanager
def running(system: System) -> Iterator[System]:
    system.engine.start()
    try:
        yield system
        assert system.engine.failure is None
    finally:
        system.engine.stop()
        for _, engine in system.drafters.values():
            engine.stop()
            assert engine.failure is None
