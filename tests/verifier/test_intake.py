"""Prompts that a (hand-driven) prefill replica runs, or half runs, or runs wrongly."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dspark.core.generation import Generation
from dspark.core.ids import SessionId
from dspark.core.pages import page_hashes
from dspark.core.sampling import Sampling
from dspark.verifier.events import Prefilled, PrefillFailed
from tests.fakes import PAGE_TOKENS, VOCAB, continuation
from tests.verifier.harness import Collected, System, running

SAMPLING = Sampling(temperature=0.9, seed=4)
PROMPT = [(7 * position) % VOCAB for position in range(22)]


@dataclass(frozen=True, slots=True)
class Started:
    session: SessionId
    attempt: int
    tokens: tuple[int, ...]
    held: tuple[bytes, ...]


@dataclass(slots=True)
class HandPort:
    """A port whose replica is the test."""

    ready: bool = True
    begun: list[Started] = field(default_factory=list)
    cancelled: list[SessionId] = field(default_factory=list)
    some: threading.Event = field(default_factory=threading.Event)

    def available(self) -> bool:
        return self.ready

    def start(
        self,
        session: SessionId,
        attempt: int,
        request_id: str,
        tokens: tuple[int, ...],
        held_hashes: tuple[bytes, ...],
    ) -> None:
        self.begun.append(Started(session, attempt, tokens, held_hashes))
        self.some.set()

    def cancel(self, session: SessionId) -> None:
        self.cancelled.append(session)


class Bench:
    """A verifier without a drafter, whose long prompts go to the hand-driven port."""

    def __init__(self, **settings: int) -> None:
        self.port = HandPort()
        self.system = System(prefill=self.port, drafting=False, local_prefill_tokens=4, **settings)
        self.taken = threading.Semaphore(0)

    def begin(
        self, prompt: Sequence[int] = PROMPT, count: int = 12, **more: object
    ) -> tuple[Started, Collected]:
        self.port.some.clear()
        sink = self.system.generate(ask(prompt, count, **more))
        assert self.port.some.wait(10.0)
        return self.port.begun[-1], sink

    def chunk(
        self,
        started: Started,
        start: int,
        stop: int,
        *,
        attempt: int | None = None,
        kv: Sequence[float] | None = None,
    ) -> None:
        """Positions start .. stop - 1 arrive, and are copied or dropped."""
        values = started.tokens[start:stop] if kv is None else kv
        last = stop == len(started.tokens)
        self.system.inbox.put(
            Prefilled(
                session=started.session,
                attempt=started.attempt if attempt is None else attempt,
                start=start,
                num_tokens=stop - start,
                kv=[np.array(values, dtype=np.float32).reshape(-1, 1, 1, 1)],
                rows=None,
                last_logits=np.array(started.tokens, dtype=np.float32) if last else None,
                taken=self.taken.release,
            )
        )
        assert self.taken.acquire(timeout=10.0)

    @property
    def prompt_tokens_here(self) -> int:
        return self.system.engine.window.take(0.0)[0].prompt_tokens


def ask(prompt: Sequence[int], count: int = 12, **more: object) -> Generation:
    return Generation(
        request_id="r",
        prompt=tuple(prompt),
        max_new_tokens=count,
        **({"sampling": SAMPLING} | more),  # type: ignore[arg-type]
    )


EXPECTED = continuation(PROMPT, 12, SAMPLING)


def test_a_long_prompt_is_pulled_and_none_of_it_runs_here() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        assert (started.attempt, started.tokens, started.held) == (1, tuple(PROMPT), ())
        it.chunk(started, 0, 8)
        it.chunk(started, 8, 16)
        it.chunk(started, 16, 22)
        assert sink.wait().tokens == EXPECTED
        assert it.prompt_tokens_here == 0
        assert it.system.engine.intake.kv_bytes == 22 * 4
        assert it.port.cancelled == []


def test_a_short_prompt_runs_here() -> None:
    it = Bench()
    with running(it.system):
        sink = it.system.generate(ask([1, 2, 3, 4]))
        assert sink.wait().tokens == continuation([1, 2, 3, 4], 12, SAMPLING)
        assert it.port.begun == []


def test_without_a_ready_replica_a_prompt_runs_here() -> None:
    it = Bench()
    it.port.ready = False
    with running(it.system):
        assert it.system.generate(ask(PROMPT)).wait().tokens == EXPECTED
        assert it.port.begun == []
        assert it.prompt_tokens_here == 22


def test_tokens_committed_elsewhere_are_part_of_the_prompt() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin(committed=tuple(EXPECTED[:5]))
        assert started.tokens == (*PROMPT, *EXPECTED[:5])
        it.chunk(started, 0, 27)
        assert sink.wait().tokens == EXPECTED[5:]


@pytest.mark.parametrize("arrived", [0, 8, 16])
def test_after_a_failure_the_rest_of_the_prompt_runs_here(arrived: int) -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        if arrived:
            it.chunk(started, 0, arrived)
        it.system.inbox.put(PrefillFailed(session=started.session, attempt=1, reason="gone"))
        assert sink.wait().tokens == EXPECTED
        assert it.prompt_tokens_here == 22 - arrived


def test_chunks_that_come_after_the_fallback_are_dropped() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        it.system.inbox.put(PrefillFailed(session=started.session, attempt=1, reason="gone"))
        it.chunk(started, 0, 8, kv=[1.0] * 8)
        assert sink.wait().tokens == EXPECTED


def test_events_of_another_attempt_are_ignored() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        it.chunk(started, 0, 8, attempt=0, kv=[1.0] * 8)
        it.system.inbox.put(PrefillFailed(session=started.session, attempt=0, reason="old"))
        it.chunk(started, 0, 22)
        assert sink.wait().tokens == EXPECTED
        assert it.prompt_tokens_here == 0


@pytest.mark.parametrize("start", [4, 16])
def test_a_disagreement_about_held_pages_falls_back_and_stops_the_pull(start: int) -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        it.chunk(started, 0, 8)
        it.chunk(started, start, start + 4)
        assert sink.wait().tokens == EXPECTED
        assert it.prompt_tokens_here == 14
        assert it.port.cancelled == [started.session]


def test_kv_that_cannot_be_written_falls_back_and_stops_the_pull() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        it.chunk(started, 0, 8, kv=[float("nan")] * 8)
        assert sink.wait().tokens == EXPECTED
        assert it.port.cancelled == [started.session]


def test_pages_that_are_here_already_are_named_in_the_request() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        it.chunk(started, 0, 22)
        sink.wait()
        longer = [*PROMPT, 5, 5, 5, 5, 5, 5]
        started, sink = it.begin(longer)
        assert started.held == page_hashes(PROMPT, PAGE_TOKENS)
        it.chunk(started, 20, 28)
        assert sink.wait().tokens == continuation(longer, 12, SAMPLING)
        assert sink.stats is not None
        assert sink.stats.cached_prompt_tokens == 20


def test_the_next_turn_of_a_conversation_finds_the_answer_of_the_last_one() -> None:
    it = Bench()
    with running(it.system):
        started, sink = it.begin()
        it.chunk(started, 0, 22)
        answer = sink.wait().tokens
        turn = [*PROMPT, *answer, 5, 5, 5, 5, 5, 5, 5]
        started, sink = it.begin(turn)
        # The answer's last token was never a step's input: its position is not computed.
        assert started.held == page_hashes([*PROMPT, *answer[:-1]], PAGE_TOKENS)
        cached = len(started.held) * PAGE_TOKENS
        it.chunk(started, cached, len(turn))
        assert sink.wait().tokens == continuation(turn, 12, SAMPLING)
        assert sink.stats is not None
        assert sink.stats.cached_prompt_tokens == cached > len(PROMPT)


def test_a_prefix_is_not_shared_before_it_is_complete() -> None:
    it = Bench()
    with running(it.system):
        first, one = it.begin()
        it.chunk(first, 0, 20)
        longer = [*PROMPT, 5, 5, 5, 5]
        second, two = it.begin(longer)
        assert second.held == ()
        it.chunk(first, 20, 22)
        it.chunk(second, 0, 26)
        assert one.wait().tokens == EXPECTED
        assert two.wait().tokens == continuation(longer, 12, SAMPLING)


def test_choices_of_one_prompt_share_its_pages_and_one_prefill() -> None:
    it = Bench()
    pages = it.system.engine.intake.pages
    free = pages.free_pages
    with running(it.system):
        first, one = it.begin()
        others = [
            it.system.generate(ask(PROMPT, sampling=replace(SAMPLING, choice=choice)))
            for choice in (1, 2)
        ]
        another, unlike = it.begin([9] * 22)  # passes them by
        assert another.tokens == (9,) * 22
        held = 2 * pages.pages_for(34)
        assert free - pages.free_pages == held
        it.chunk(first, 0, 22)
        for choice, sink in enumerate([one, *others]):
            expected = continuation(PROMPT, 12, replace(SAMPLING, choice=choice))
            assert sink.wait().tokens == expected
        assert [sink.stats and sink.stats.cached_prompt_tokens for sink in others] == [20, 20]
        assert len(it.port.begun) == 2
        assert it.prompt_tokens_here == 2 * 2  # each ran the two tokens after the last full page
        it.chunk(another, 0, 22)
        assert unlike.wait().tokens == continuation([9] * 22, 12, SAMPLING)


def test_a_choice_goes_on_by_itself_where_the_first_one_is_cancelled() -> None:
    it = Bench()
    with running(it.system):
        first, _ = it.begin()
        second = it.system.generate(ask(PROMPT))
        it.port.some.clear()
        it.system.engine.cancel(first.session)
        assert it.port.some.wait(10.0)
        it.chunk(it.port.begun[-1], 0, 22)
        assert second.wait().tokens == EXPECTED


def test_of_those_that_wait_the_lowest_priority_goes_first_and_then_the_earliest() -> None:
    it = Bench(num_pages=32)
    with running(it.system):
        it.begin(count=106)  # every page there is
        others = [[number] * 22 for number in (1, 2, 3)]
        for prompt, priority in zip(others, (5, -1, -1), strict=True):
            it.system.engine.submit(ask(prompt, 106, priority=priority), Collected())
        order = []
        for _ in others:
            it.port.some.clear()
            it.system.engine.cancel(it.port.begun[-1].session)
            assert it.port.some.wait(10.0)
            order.append(it.port.begun[-1].tokens[0])
        assert order == [2, 3, 1]


def cancel_when_waiting(it: Bench) -> None:
    blocker, _ = it.begin(count=106)  # every page there is
    waiting = it.system.engine.submit(ask(PROMPT), Collected())
    it.system.engine.cancel(waiting)
    it.system.engine.cancel(blocker.session)


def cancel_while_pulling(it: Bench) -> None:
    started, _ = it.begin()
    it.chunk(started, 0, 8)
    it.system.engine.cancel(started.session)


def cancel_while_running_here(it: Bench) -> None:
    it.system.target.step_s = 0.01
    it.port.ready = False
    session = it.system.engine.submit(ask([3] * 80), Collected())
    it.system.engine.cancel(session)


def cancel_while_decoding(it: Bench) -> None:
    it.system.target.step_s = 0.005
    started, sink = it.begin(count=100)
    it.chunk(started, 0, 22)
    assert sink.some.wait(10.0)
    it.system.engine.cancel(started.session)


@pytest.mark.parametrize(
    "phase",
    [cancel_when_waiting, cancel_while_pulling, cancel_while_running_here, cancel_while_decoding],
)
def test_cancelling_in_any_phase_frees_everything(phase: Callable[[Bench], None]) -> None:
    it = Bench(num_pages=32, prefill_chunk_tokens=4)
    with running(it.system):
        phase(it)
        for _ in range(1000):
            if it.system.engine.num_open == 0:
                break
            time.sleep(0.005)
        assert it.system.engine.num_open == 0
        pages = it.system.engine.intake.pages
        assert pages.free_pages == pages.num_pages
        pages.check()
        assert set(it.port.cancelled) <= {started.session for started in it.port.begun}
        it.port.ready = False
        assert it.system.generate(ask(PROMPT)).wait().tokens == EXPECTED


def test_a_chunk_for_a_session_that_is_gone_is_dropped_and_its_stream_goes_on() -> None:
    it = Bench()
    with running(it.system):
        started, _ = it.begin()
        it.system.engine.cancel(started.session)
        it.chunk(started, 0, 8)
        assert it.port.cancelled == [started.session]
