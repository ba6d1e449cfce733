import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from dspark.core.draft import (
    DraftRequest,
    DraftStatus,
    Proposal,
    Round,
    RoundReply,
    Rows,
    SessionRound,
)
from dspark.core.ids import Incarnation, SessionId
from dspark.core.sampling import Sampling
from dspark.drafter.engine import DrafterEngine, VerifierKey
from tests.fakes import FakeDrafter

OK, NOT_SEEDED, FULL = DraftStatus.OK, DraftStatus.NOT_SEEDED, DraftStatus.FULL
ONE = VerifierKey(replica="v1", incarnation=Incarnation(1))
TWO = VerifierKey(replica="v2", incarnation=Incarnation(1))


class SlowDrafter(FakeDrafter):
    """Drafts only while the gate is open, so that a test can let rounds pile up."""

    def __init__(self, max_sessions: int = 64) -> None:
        super().__init__(gamma=3, max_sessions=max_sessions)
        self.gate = threading.Event()
        self.gate.set()
        self.drafting = threading.Event()

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        self.drafting.set()
        assert self.gate.wait(10.0)
        return super().draft(requests)


class Bench:
    """An engine, and waiting for what it says."""

    def __init__(self, drafter: SlowDrafter, **bounds: int) -> None:
        self.drafter = drafter
        self.replies: queue.SimpleQueue[tuple[VerifierKey, RoundReply]] = queue.SimpleQueue()
        self.engine = DrafterEngine(
            drafter,
            incarnation=Incarnation(5),
            pool="d",
            max_batch_sessions=bounds.get("max_batch_sessions", 32),
            max_pending_rounds=bounds.get("max_pending_rounds", 8),
        )

    def submit(
        self, verifier: VerifierKey, number: int, *parts: SessionRound, **more: object
    ) -> None:
        round_ = Round(number=number, sessions=parts, **more)  # type: ignore[arg-type]
        self.engine.submit(verifier, round_, lambda reply: self.replies.put((verifier, reply)))

    def reply(self) -> RoundReply:
        return self.replies.get(timeout=10.0)[1]

    def ask(self, verifier: VerifierKey, number: int, *parts: SessionRound) -> list[DraftStatus]:
        self.submit(verifier, number, *parts)
        return [block.status for block in self.reply().blocks]

    def open(self, verifier: VerifierKey, session: int, num_rows: int = 0) -> bool:
        """Open a session, seed rows 0 .. num_rows - 1, and wait."""
        answers: queue.SimpleQueue[bool | int] = queue.SimpleQueue()
        self.engine.open(verifier, SessionId(session), Sampling(), answers.put)
        opened = bool(answers.get(timeout=10.0))
        if num_rows and opened:
            self.engine.seed(verifier, SessionId(session), 0, rows(num_rows), answers.put)
            assert answers.get(timeout=10.0) == num_rows
        return opened

    def seed(self, session: int, start: int, count: int) -> int:
        answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.engine.seed(ONE, SessionId(session), start, rows(count), answers.put)
        return answers.get(timeout=10.0)


def rows(count: int) -> Rows:
    return np.ones((count, 1), dtype=np.float32)


def part(
    session: int,
    start: int,
    count: int,
    *,
    max_tokens: int = 3,
    shaped: Rows | None = None,
    opens: Sampling | None = None,
) -> SessionRound:
    """New rows start .. start + count - 1, and the anchor after them."""
    return SessionRound(
        session=SessionId(session),
        base_length=start + count,
        anchor=1,
        rows_start=start,
        rows=rows(count) if shaped is None else shaped,
        max_tokens=max_tokens,
        opens=opens,
    )


@contextmanager
def bench(drafter: SlowDrafter | None = None, **bounds: int) -> Iterator[Bench]:
    made = Bench(drafter or SlowDrafter(), **bounds)
    made.engine.start()
    made.engine.attach(ONE)
    made.engine.attach(TWO)
    try:
        yield made
        assert made.engine.failure is None
    finally:
        made.drafter.gate.set()
        made.engine.stop()


def test_a_round_is_answered_for_every_session_in_order() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.open(ONE, 2, 4)
        it.submit(ONE, 7, part(2, 4, 2), part(1, 4, 1))
        reply = it.reply()
        assert (reply.number, reply.incarnation, reply.draining) == (7, 5, False)
        assert [(b.session, b.base_length, len(b.tokens)) for b in reply.blocks] == [
            (2, 6, 3),
            (1, 5, 3),
        ]


def test_rounds_of_several_verifiers_are_drafted_in_one_batch() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.open(TWO, 1, 4)  # the same number, another session
        it.drafter.gate.clear()
        it.submit(ONE, 1, part(1, 4, 0))
        assert it.drafter.drafting.wait(10.0)
        it.submit(ONE, 2, part(1, 4, 1))
        it.submit(TWO, 1, part(1, 4, 2))
        it.drafter.gate.set()
        assert [len(it.reply().blocks) for _ in range(3)] == [1, 1, 1]
        assert it.drafter.batches == [1, 2]


def test_a_batch_is_bounded_but_takes_at_least_one_round() -> None:
    with bench(max_batch_sessions=2) as it:
        for session in range(1, 6):
            it.open(ONE, session, 4)
        it.drafter.gate.clear()
        it.submit(ONE, 1, part(1, 4, 0))
        assert it.drafter.drafting.wait(10.0)
        it.submit(ONE, 2, *(part(session, 4, 0) for session in (2, 3, 4)))
        it.submit(ONE, 3, part(5, 4, 0))
        it.drafter.gate.set()
        assert [it.reply().number for _ in range(3)] == [1, 2, 3]
        assert it.drafter.batches == [1, 3, 1]


def test_no_more_tokens_are_drafted_than_asked_for_or_than_the_block_has() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.submit(ONE, 1, part(1, 4, 0, max_tokens=2))
        assert len(it.reply().blocks[0].tokens) == 2
        it.submit(ONE, 2, part(1, 4, 1, max_tokens=99))
        assert len(it.reply().blocks[0].tokens) == 3


def test_a_round_may_bring_rows_and_ask_for_nothing() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        assert it.ask(ONE, 1, part(1, 4, 2, max_tokens=0)) == [OK]
        assert it.drafter.batches == []
        assert it.drafter.cached((ONE, 1)) == 6


@pytest.mark.parametrize(
    "wrong",
    [part(1, 5, 1), part(1, 3, 2), part(1, 5, 0), part(1, 3, 0), part(9, 4, 1), part(9, 0, 0)],
)
def test_a_gap_a_repeat_or_a_stranger_is_answered_not_seeded(wrong: SessionRound) -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.open(ONE, 2, 4)
        assert it.ask(ONE, 1, wrong, part(2, 4, 0)) == [NOT_SEEDED, OK]
        assert it.drafter.cached((ONE, 1)) == 4


@pytest.mark.parametrize("shape", [(), (2,), (2, 1, 1)])
def test_rows_of_a_wrong_shape_do_not_kill_the_engine(shape: tuple[int, ...]) -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        bad = part(1, 4, 2, shaped=np.ones(shape, dtype=np.float32))
        assert it.ask(ONE, 1, bad) == [NOT_SEEDED]
        assert it.ask(ONE, 2, part(1, 4, 0)) == [OK]


@pytest.mark.parametrize("error", [ValueError("width"), MemoryError("room")])
def test_rows_that_the_model_refuses_do_not_kill_the_engine(error: Exception) -> None:
    class Refusing(SlowDrafter):
        def append(self, key: object, start: int, rows: Rows) -> int:
            if start == 4:
                raise error
            return super().append(key, start, rows)  # type: ignore[arg-type]

    with bench(Refusing()) as it:
        it.open(ONE, 1, 4)
        it.open(ONE, 2, 3)
        assert it.ask(ONE, 1, part(1, 4, 1), part(2, 3, 1)) == [NOT_SEEDED, OK]


def test_a_session_asked_twice_in_a_batch_is_drafted_for_its_newest_question_only() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        assert it.ask(ONE, 1, part(1, 4, 0), part(1, 4, 2)) == [NOT_SEEDED, OK]
        assert it.ask(ONE, 2, part(1, 6, 0), part(1, 6, 0)) == [OK, NOT_SEEDED]


def test_when_too_much_waits_the_oldest_round_is_full_but_its_rows_are_kept() -> None:
    with bench(max_pending_rounds=2) as it:
        it.open(ONE, 1, 4)
        it.drafter.gate.clear()
        it.submit(TWO, 1)
        it.submit(ONE, 1, part(1, 4, 0))
        assert it.drafter.drafting.wait(10.0)
        it.submit(ONE, 2, part(1, 4, 1))
        it.submit(TWO, 2)
        it.submit(TWO, 3)  # round 2 of verifier one has to go
        assert it.engine.num_waiting == 2
        it.drafter.gate.set()
        replies = [it.replies.get(timeout=10.0) for _ in range(5)]
        overdue = next(reply for who, reply in replies if who == ONE and reply.number == 2)
        assert [block.status for block in overdue.blocks] == [FULL]
        assert it.drafter.cached((ONE, 1)) == 5
        assert it.ask(ONE, 3, part(1, 5, 2)) == [OK]


def test_released_sessions_are_freed_with_the_round_that_says_so() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.open(TWO, 1, 4)
        it.submit(ONE, 1, released=(SessionId(1), SessionId(9)))
        assert it.reply().blocks == ()
        assert it.engine.num_sessions == it.drafter.num_sessions == 1


def test_a_verifier_that_left_is_freed_as_a_whole_and_opens_nothing_more() -> None:
    with bench() as it:
        for session in (1, 2):
            it.open(ONE, session, 4)
        it.open(TWO, 1, 4)
        it.engine.forget(ONE)
        assert not it.open(ONE, 3)
        assert it.drafter.num_sessions == 1
        assert it.ask(TWO, 1, part(1, 4, 0)) == [OK]


def test_a_verifier_that_is_back_before_its_old_stream_ends_keeps_its_new_sessions() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.engine.attach(ONE)
        assert it.open(ONE, 2, 4)
        it.engine.forget(ONE)  # the old stream's end
        assert it.open(ONE, 3, 4)
        assert it.ask(ONE, 1, part(1, 4, 0), part(2, 4, 0)) == [NOT_SEEDED, OK]
        assert it.engine.num_sessions == it.drafter.num_sessions == 2
        it.engine.forget(ONE)
        assert not it.open(ONE, 4)
        assert it.drafter.num_sessions == 0


def test_a_session_without_room_is_refused() -> None:
    with bench(SlowDrafter(max_sessions=1)) as it:
        assert it.open(ONE, 1, 4)
        assert not it.open(ONE, 2)
        assert it.open(ONE, 1)  # anew


def test_a_round_may_open_a_session_or_begin_it_anew() -> None:
    with bench() as it:
        assert it.ask(ONE, 1, part(1, 0, 4, opens=Sampling())) == [DraftStatus.OK]
        assert it.ask(ONE, 2, part(1, 4, 1)) == [DraftStatus.OK]
        assert it.ask(ONE, 3, part(1, 0, 2, opens=Sampling())) == [DraftStatus.OK]
        assert it.engine.num_sessions == 1
        it.submit(ONE, 4, released=(SessionId(1),))
        it.reply()
        assert it.engine.num_sessions == it.drafter.num_sessions == 0


def test_an_opening_round_without_room_is_full() -> None:
    with bench(SlowDrafter(max_sessions=1)) as it:
        it.open(ONE, 1, 4)
        asked = it.ask(ONE, 1, part(2, 0, 4, opens=Sampling()), part(1, 4, 1))
        assert asked == [DraftStatus.FULL, DraftStatus.OK]
        assert it.engine.num_sessions == 1


def test_seeding_hears_how_many_rows_are_cached_and_refuses_a_gap() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        assert it.seed(1, 4, 3) == 7
        assert it.seed(1, 9, 1) == -1
        assert it.seed(2, 0, 1) == -1


def test_a_draining_drafter_says_so_with_every_answer() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.engine.drain()
        it.submit(ONE, 1, part(1, 4, 0))
        reply = it.reply()
        assert reply.draining
        assert reply.blocks[0].status is OK


def test_totals_count_what_was_done() -> None:
    with bench() as it:
        it.open(ONE, 1, 4)
        it.ask(ONE, 1, part(1, 4, 2))
        totals = it.engine.totals.copy()
        assert (totals.batches, totals.rounds, totals.sessions) == (1, 1, 1)
        assert (totals.drafted_tokens, totals.row_bytes) == (3, 6 * 4)


def test_an_engine_whose_model_fails_remembers_why() -> None:
    class Failing(SlowDrafter):
        def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
            self.drafting.set()
            raise RuntimeError("out of luck")

    made = Bench(Failing())
    made.engine.start()
    made.engine.attach(ONE)
    made.open(ONE, 1, 4)
    made.submit(ONE, 1, part(1, 4, 0))
    assert made.drafter.drafting.wait(10.0)
    made.engine.stop()
    assert str(made.engine.failure) == "out of luck"
