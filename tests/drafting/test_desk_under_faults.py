"""Any order of drops, duplicates, delays, restarts: what the desk hands out is never wrong.

The desk is the real one.  Two drafters, the streams to them and the clock are a model: messages
wait in pools until a rule delivers, repeats or drops one.
"""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dspark.core.draft import DraftBlock, DraftStatus, Round, RoundReply
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import Ask, DraftDesk
from dspark.drafting.events import Connected, Lost, Replied, Seeded
from tests.drafting.world import Recorder, Seeding, true_rows

NAMES = (ReplicaName("d0"), ReplicaName("d1"))
MAX_SESSIONS = 4

which = st.integers(0, 7)  # of a pool, modulo its size
drafters = st.integers(0, len(NAMES) - 1)
# A loss mends many things: where losses are frequent, smaller troubles do not last.
seldom = st.integers(0, 7).map(lambda number: number == 7)


@dataclass
class Drafter:
    """A drafter process as the protocol describes it; its cache maps sessions to rows."""

    name: ReplicaName
    incarnation: int = 1
    connected: bool = False
    room: int = 2
    draining: bool = False
    cache: dict[SessionId, list[tuple[int, int]]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    seedings: list[Seeding] = field(default_factory=list)

    def append(self, session: SessionId, start: int, rows: np.ndarray) -> bool:
        mine = self.cache.get(session)
        if mine is None or (len(rows) and start != len(mine)):
            return False
        mine.extend((int(row[0]), int(row[1])) for row in rows)
        return True

    def answer(self, round_: Round) -> RoundReply:
        for session in round_.released:
            self.cache.pop(session, None)
        blocks = []
        for part in round_.sessions:
            if part.opens is not None:
                if part.session not in self.cache and len(self.cache) >= self.room:
                    blocks.append(
                        DraftBlock(
                            session=part.session,
                            base_length=part.base_length,
                            status=DraftStatus.FULL,
                        )
                    )
                    continue
                self.cache[part.session] = []
            ready = self.append(part.session, part.rows_start, part.rows)
            ready = ready and len(self.cache[part.session]) == part.base_length
            # The token tells which process drafted, and at which base length.
            tokens = (self.incarnation, part.base_length)[: part.max_tokens] if ready else ()
            blocks.append(
                DraftBlock(
                    session=part.session,
                    base_length=part.base_length,
                    status=DraftStatus.OK if ready else DraftStatus.NOT_SEEDED,
                    tokens=tokens,
                    confidences=tuple(0.5 for _ in tokens),
                )
            )
        return RoundReply(
            number=round_.number,
            incarnation=Incarnation(self.incarnation),
            blocks=tuple(blocks),
            draining=self.draining,
        )

    def fill(self, seeding: Seeding, *, broken: bool) -> Seeded:
        status = DraftStatus.OK
        if seeding.session not in self.cache and len(self.cache) >= self.room:
            status = DraftStatus.FULL
        else:
            self.cache[seeding.session] = []
            for start, rows in seeding.chunks[: 1 if broken else None]:
                self.append(seeding.session, start, rows)
            if broken:
                status = DraftStatus.NOT_SEEDED
        cached = len(self.cache.get(seeding.session, ()))
        return Seeded(
            drafter=self.name,
            incarnation=Incarnation(self.incarnation),
            session=seeding.session,
            seeding=seeding.number,
            status=status,
            cached_rows=cached,
        )


class Faults(RuleBasedStateMachine):
    @initialize(max_opening_bytes=st.sampled_from([0, 32, 1000]))
    def begin(self, max_opening_bytes: int) -> None:
        self.now_s = 0.0
        self.port = Recorder()
        self.desk = DraftDesk(
            self.port,
            rows=true_rows,
            deadline=Deadline(floor_s=1.0, factor=3.0),
            seed_chunk_bytes=24,
            max_opening_bytes=max_opening_bytes,
            max_sessions_per_drafter=3,
            vocab_size=2**31,
        )
        self.drafters = [Drafter(name) for name in NAMES]
        self.lengths: dict[SessionId, int] = {}
        self.events: list[Replied | Seeded] = []
        self.next_session = 1
        self.taken: set[SessionId] = set()
        for drafter in self.drafters:
            self.bring_up(drafter)
        for rows in (3, 5):
            self.open(rows)
        self.settle()  # troubles find sessions that are being drafted

    # --- the verifier -----------------------------------------------------------------------

    @precondition(lambda self: len(self.lengths) < MAX_SESSIONS)
    @rule(rows=st.integers(1, 9))
    def open(self, rows: int) -> None:
        session = SessionId(self.next_session)
        self.next_session += 1
        self.lengths[session] = rows
        self.desk.open(session, Sampling(), rows)
        self.carry()

    @precondition(lambda self: self.lengths)
    @rule(index=which)
    def close(self, index: int) -> None:
        session = sorted(self.lengths)[index % len(self.lengths)]
        del self.lengths[session]
        self.desk.close(session)

    @rule(committed=st.integers(1, 3), cohort=st.integers(0, 2))
    def step(self, committed: int, cohort: int) -> None:
        """Take what may be used, commit, and ask again; a cohort of 2 means everybody."""
        asks = []
        for session in sorted(self.lengths):
            if cohort < 2 and session % 2 != cohort:
                continue
            self.take(session)
            self.lengths[session] += committed
            base = self.lengths[session]
            asks.append(Ask(session=session, base_length=base, anchor=0, max_tokens=2))
        self.desk.request(asks, self.now_s)
        self.carry()

    def take(self, session: SessionId) -> None:
        base = self.lengths[session]
        block = self.desk.take(session, base)
        if block is None:
            return
        assert block.session == session
        assert block.base_length == base
        incarnation, drafted_at = block.tokens
        assert drafted_at == base
        homes = [d for d in self.drafters if d.connected and d.incarnation == incarnation]
        assert homes, "a block of a process that is gone was used"
        self.taken.add(session)

    # --- the network and the drafters -------------------------------------------------------

    def carry(self) -> None:
        """Move what the desk sent onto the streams of the drafters that are connected."""
        by_name = {drafter.name: drafter for drafter in self.drafters if drafter.connected}
        for name, round_ in self.port.rounds:
            by_name[name].rounds.append(round_)
        for seeding in self.port.seedings:
            by_name[seeding.drafter].seedings.append(seeding)
        self.port.rounds.clear()
        self.port.seedings.clear()

    def handle(self, event: Connected | Lost | Replied | Seeded) -> None:
        self.desk.handle(event, self.now_s)
        self.carry()

    @rule()
    def compute(self) -> None:
        for drafter in self.drafters:
            self.answer_round(drafter)

    def answer_round(self, drafter: Drafter) -> None:
        if drafter.rounds:
            reply = drafter.answer(drafter.rounds.pop(0))
            self.events.append(Replied(drafter=drafter.name, reply=reply, num_bytes=1))

    @rule(drafter=drafters, index=which, broken=st.booleans())
    def fill(self, drafter: int, index: int, broken: bool) -> None:
        """Seedings have streams of their own: they end in any order, or break."""
        self.end_seeding(self.drafters[drafter], index, broken=broken)

    def end_seeding(self, drafter: Drafter, index: int = 0, *, broken: bool = False) -> None:
        if drafter.seedings:
            seeding = drafter.seedings.pop(index % len(drafter.seedings))
            self.events.append(drafter.fill(seeding, broken=broken))

    @precondition(lambda self: self.events)
    @rule(index=which, again=st.booleans())
    def deliver(self, index: int, again: bool) -> None:
        index %= len(self.events)
        self.handle(self.events[index] if again else self.events.pop(index))

    @precondition(lambda self: self.events)
    @rule(index=which)
    def drop(self, index: int) -> None:
        """Replies may be lost; a port promises an end to every seeding."""
        index %= len(self.events)
        if isinstance(self.events[index], Replied):
            self.events.pop(index)

    @rule(seconds=st.sampled_from([0.1, 2.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(drafter=drafters)
    def connect(self, drafter: int) -> None:
        self.bring_up(self.drafters[drafter])

    def bring_up(self, drafter: Drafter) -> None:
        if not drafter.connected:
            drafter.connected = True
            self.handle(
                Connected(drafter=drafter.name, incarnation=Incarnation(drafter.incarnation))
            )

    @rule(drafter=drafters, dies=st.booleans(), chance=seldom)
    def lose(self, drafter: int, dies: bool, chance: bool) -> None:
        """A stream breaks, or the whole process goes; what it answered may still arrive."""
        if chance:
            self.take_down(self.drafters[drafter], dies=dies)

    def take_down(self, drafter: Drafter, *, dies: bool) -> None:
        if not drafter.connected:
            return
        drafter.connected = False
        drafter.cache.clear()
        drafter.rounds.clear()
        drafter.seedings.clear()
        lost = Lost(drafter=drafter.name, incarnation=Incarnation(drafter.incarnation))
        if dies:
            # Incarnations differ over all processes, as random numbers do.
            drafter.incarnation = max(d.incarnation for d in self.drafters) + 1
            drafter.draining = False
        self.handle(lost)

    @rule(drafter=drafters, chance=seldom)
    def drain(self, drafter: int, chance: bool) -> None:
        self.drafters[drafter].draining |= chance

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def caches_are_prefixes_of_the_true_rows(self) -> None:
        for drafter in self.drafters:
            for session, rows in drafter.cache.items():
                assert rows == [(session, position) for position in range(len(rows))]
                if session in self.lengths:
                    assert len(rows) <= self.lengths[session]

    @invariant()
    def no_session_is_asked_about_twice_at_once(self) -> None:
        for drafter in self.drafters:
            waiting = [part.session for round_ in drafter.rounds for part in round_.sessions]
            recent = self.now_s - 10.0  # after that an answer is given up
            assert recent > 0 or len(waiting) == len(set(waiting))

    def teardown(self) -> None:
        """After a quiet while every session is drafted again, and ended ones are freed."""
        if not hasattr(self, "desk"):
            return
        for drafter in self.drafters:
            drafter.room = MAX_SESSIONS
            if drafter.draining:
                self.take_down(drafter, dies=True)
            self.bring_up(drafter)
        self.taken.clear()
        for _ in range(3):
            self.settle()
            self.now_s += 11.0
            self.step(1, 2)
        for _ in range(230):
            if self.taken >= set(self.lengths):
                break
            self.settle()
            self.step(1, 2)
        assert self.taken >= set(self.lengths), "a session is never drafted again"
        self.settle()
        self.desk.flush(self.now_s)
        self.carry()
        self.settle()
        for drafter in self.drafters:
            assert set(drafter.cache) <= set(self.lengths), "an ended session was not freed"

    def settle(self) -> None:
        """Deliver everything that is on its way."""
        while self.events or any(d.rounds or d.seedings for d in self.drafters):
            while self.events:
                self.handle(self.events.pop(0))
            for drafter in self.drafters:
                self.end_seeding(drafter)
                self.answer_round(drafter)


Faults.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestDeskUnderFaults = Faults.TestCase
