"""The desk: for each session, who drafts it, what that drafter has, and what was asked.

Used by one engine thread.  A session is in one of three situations: not placed (no drafter, or
none has room), seeding (its rows are on their way), or ready (it may be asked).  A short prompt is
not seeded: all its rows ride on the first question, which opens the session.  At most one question
is outstanding for a session.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dspark.core.curve import Curve
from dspark.core.draft import DraftBlock, DraftStatus, Round, RoundReply, Rows, SessionRound
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.deadline import Deadline
from dspark.drafting.events import Connected, DraftEvent, Lost, Replied, Seeded
from dspark.drafting.fences import Cause, Question, judge_block
from dspark.drafting.port import DraftPort

log = logging.getLogger(__name__)

_PAUSE_REQUESTS = 200
"""A drafter that had no room, or where seeding failed, is left alone for so many requests."""

_LOST_S = 10.0
"""An answer this late (or two deadlines, if longer) will not come: its session moves."""

_NO_ANSWER = frozenset({Cause.DUPLICATE, Cause.FOREIGN, Cause.STALE})
"""Blocks that are not about what is asked now."""

RowSource = Callable[[SessionId, int, int], Rows]
"""(session, start, stop) -> the kept context rows of these positions."""


class Ask(NamedTuple):
    """One session that wants a draft after ``anchor`` at position ``base_length``."""

    session: SessionId
    base_length: int
    anchor: int
    max_tokens: int


@dataclass(slots=True)
class _Placement:
    """What the desk knows of one session."""

    sampling: Sampling
    num_rows: int  # rows known to exist: positions 0 .. num_rows - 1
    drafter: ReplicaName | None = None
    seeding: int | None = None  # number of the seeding under way
    sent_rows: int = 0
    unopened: bool = False  # the next question opens the session
    opening: bool = False  # the outstanding one does
    question: Question | None = None
    block: DraftBlock | None = None
    draft_bytes: int = 0


@dataclass(slots=True)
class _Drafter:
    incarnation: Incarnation
    curve: Curve | None = None
    sessions: set[SessionId] = field(default_factory=set)
    released: list[SessionId] = field(default_factory=list)
    # Seedings under way whose sessions left: released only once they end, because a seeding has
    # a stream of its own, and one that came after the release would be cached for ever.
    orphans: dict[int, SessionId] = field(default_factory=dict)
    # Takes no new sessions before this request of ours (see _PAUSE_REQUESTS).
    closed_until: float = 0.0


class DraftDesk:
    """Places sessions on drafters, asks, and keeps what may be used."""

    def __init__(
        self,
        port: DraftPort,
        *,
        rows: RowSource,
        deadline: Deadline,
        seed_chunk_bytes: int,
        max_opening_bytes: int,
        max_sessions_per_drafter: int,
        vocab_size: int,
    ) -> None:
        """Take the port.

        Args:
            port: Where rounds and seeds go.
            rows: Where context rows come from.
            deadline: How long a draft is worth waiting for.
            seed_chunk_bytes: Size of a seeding's chunk.
            max_opening_bytes: Rows that may ride on a session's first question; more are seeded.
            max_sessions_per_drafter: Most of our sessions at one drafter.
            vocab_size: Tokens outside make a block malformed.
        """
        self._port = port
        self._rows = rows
        self._deadline = deadline
        self._seed_chunk_bytes = seed_chunk_bytes
        self._max_opening_bytes = max_opening_bytes
        self._max_sessions_per_drafter = max_sessions_per_drafter
        self._vocab_size = vocab_size
        self._requests = 0
        self._drafters: dict[ReplicaName, _Drafter] = {}
        self._sessions: dict[SessionId, _Placement] = {}
        self._round = 0
        self._seeding = 0
        self.outcomes: Counter[str] = Counter()
        """Session rounds by cause since the start."""
        self.row_bytes = 0
        self.draft_bytes = 0
        self.num_rounds = 0

    @property
    def num_drafters(self) -> int:
        """Connected drafters."""
        return len(self._drafters)

    @property
    def drafter_curve(self) -> Curve | None:
        """What a batch costs at a connected drafter that has measured it."""
        curves = (drafter.curve for drafter in self._drafters.values())
        return next((curve for curve in curves if curve is not None), None)

    @property
    def round_trip_s(self) -> float:
        """Smoothed seconds of a round trip."""
        return self._deadline.round_trip_s

    @property
    def under_way(self) -> bool:
        """Whether a draft is awaited for a session that was drafted before."""
        return any(
            placement.question is not None and not placement.opening
            for placement in self._sessions.values()
        )

    def open(self, session: SessionId, sampling: Sampling, num_rows: int) -> None:
        """Begin drafting a session whose rows 0 .. num_rows - 1 are kept."""
        self._sessions[session] = _Placement(sampling=sampling, num_rows=num_rows)
        self._place(session)

    def close(self, session: SessionId) -> None:
        """Forget a session, here and at its drafter; unknown ones are ignored."""
        placement = self._sessions.pop(session, None)
        if placement is not None:
            self._unplace(session, placement)

    def request(self, asks: Sequence[Ask], now_s: float) -> dict[SessionId, int]:
        """Ask for a draft of every session that can be asked; the others go plainly.

        Returns:
            Bytes of context rows sent, by session asked.
        """
        self._requests += 1
        sent_bytes: dict[SessionId, int] = {}
        parts: dict[ReplicaName, list[SessionRound]] = {}
        for ask in asks:
            placement = self._sessions.get(ask.session)
            if placement is None:
                continue
            placement.num_rows = ask.base_length
            placement.block = None
            if placement.drafter is None:
                self._place(ask.session)
            if placement.drafter is None or placement.seeding is not None:
                continue
            if placement.question is not None:
                # An overdue answer is still to come: do not pile up.
                self._give_up(ask.session, placement, now_s)
                continue
            part = self._part(ask, placement)
            if part is not None:
                parts.setdefault(placement.drafter, []).append(part)
                sent_bytes[ask.session] = part.rows.nbytes
        for drafter, sessions in parts.items():
            self._send(drafter, sessions, now_s)
        self.flush(now_s)
        return sent_bytes

    def flush(self, now_s: float) -> None:
        """Tell drafters which sessions ended, where no round is about to carry it."""
        for name, drafter in self._drafters.items():
            if drafter.released:
                self._send(name, [], now_s)

    def pending_until(self, sessions: Iterable[SessionId]) -> float | None:
        """Until when it is worth waiting for these sessions' drafts; None: nothing to wait for."""
        deadlines = [
            placement.question.deadline_s
            for session in sessions
            if (placement := self._sessions.get(session)) is not None
            and placement.question is not None
            and not placement.question.late
        ]
        return max(deadlines, default=None)

    def draft_bytes_of(self, session: SessionId) -> int:
        """Bytes of draft blocks that came for a session so far."""
        placement = self._sessions.get(session)
        return 0 if placement is None else placement.draft_bytes

    def take(self, session: SessionId, base_length: int) -> DraftBlock | None:
        """Return the draft for this base length, once; None means: go plainly.

        A question still open is marked late: its answer will be dropped.
        """
        placement = self._sessions.get(session)
        if placement is None:
            return None
        if placement.question is not None:
            placement.question = placement.question._replace(late=True)
        block, placement.block = placement.block, None
        if block is None or block.base_length != base_length:
            return None
        return block

    def handle(self, event: DraftEvent, now_s: float) -> None:
        """Fold in what happened on a drafter's side."""
        if isinstance(event, Connected):
            self._drafters[event.drafter] = _Drafter(event.incarnation, curve=event.curve)
            for session, placement in self._sessions.items():
                if placement.drafter is None:
                    self._place(session)
        elif isinstance(event, Lost):
            self._lose(event.drafter, event.incarnation)
        elif isinstance(event, Replied):
            self._replied(event, now_s)
        else:
            self._seeded(event)

    def _part(self, ask: Ask, placement: _Placement) -> SessionRound | None:
        rows = self._rows(ask.session, placement.sent_rows, ask.base_length)
        most = self._max_opening_bytes if placement.unopened else 4 * self._seed_chunk_bytes
        if rows.nbytes > most:
            # A long prompt, or it went plainly for long: the rows would hold up everyone's round.
            self._seed(ask.session, placement)
            return None
        part = SessionRound(
            session=ask.session,
            base_length=ask.base_length,
            anchor=ask.anchor,
            rows_start=placement.sent_rows,
            rows=rows,
            max_tokens=ask.max_tokens,
            opens=placement.sampling if placement.unopened else None,
        )
        placement.sent_rows = ask.base_length
        placement.opening, placement.unopened = placement.unopened, False
        self.row_bytes += rows.nbytes
        return part

    def _send(self, name: ReplicaName, parts: list[SessionRound], now_s: float) -> None:
        drafter = self._drafters[name]
        self._round += 1
        released, drafter.released = tuple(drafter.released), []
        for part in parts:
            placement = self._sessions[part.session]
            placement.question = Question(
                incarnation=drafter.incarnation,
                round=self._round,
                base_length=part.base_length,
                max_tokens=part.max_tokens,
                sent_s=now_s,
                deadline_s=now_s + self._deadline.seconds,
                laws=placement.sampling.rejects,
            )
        self._port.send(name, Round(number=self._round, sessions=tuple(parts), released=released))
        self.num_rounds += 1

    def _place(self, session: SessionId) -> None:
        """Choose the drafter with the fewest of our sessions; seed it there if it is long."""
        name = self._roomiest()
        if name is None:
            return
        placement = self._sessions[session]
        placement.drafter = name
        drafter = self._drafters[name]
        drafter.sessions.add(session)
        if session in drafter.released:
            drafter.released.remove(session)
        row_bytes = self._rows(session, 0, min(1, placement.num_rows)).nbytes
        if row_bytes * placement.num_rows > self._max_opening_bytes:
            self._seed(session, placement)
        else:
            placement.unopened, placement.sent_rows = True, 0

    def _roomiest(self) -> ReplicaName | None:
        candidates = [
            (len(drafter.sessions), name)
            for name, drafter in self._drafters.items()
            if drafter.closed_until <= self._requests
            and len(drafter.sessions) < self._max_sessions_per_drafter
        ]
        return min(candidates)[1] if candidates else None

    def _give_up(self, session: SessionId, placement: _Placement, now_s: float) -> None:
        """Move a session whose answer is lost, or it would go plainly for ever."""
        assert placement.question is not None
        assert placement.drafter is not None
        if now_s - placement.question.sent_s <= max(_LOST_S, 2 * self._deadline.seconds):
            return
        self.outcomes[Cause.LOST.value] += 1
        self._leave_alone(placement.drafter)
        self._unplace(session, placement)

    def _leave_alone(self, name: ReplicaName) -> None:
        drafter = self._drafters[name]
        drafter.closed_until = max(drafter.closed_until, self._requests + _PAUSE_REQUESTS)

    def _empty(self, name: ReplicaName) -> None:
        """Move a drafter's sessions to others; those that find no room stay to the end."""
        for session in sorted(self._drafters[name].sessions):
            if self._roomiest() is None:
                return
            self._unplace(session, self._sessions[session])
            self._place(session)

    def _seed(self, session: SessionId, placement: _Placement) -> None:
        assert placement.drafter is not None
        self._seeding += 1
        placement.seeding = self._seeding
        placement.unopened = placement.opening = False
        placement.sent_rows = placement.num_rows
        placement.question = placement.block = None
        chunks = list(self._chunks(session, placement.num_rows))
        self.row_bytes += sum(rows.nbytes for _, rows in chunks)
        self._port.seed(placement.drafter, session, self._seeding, placement.sampling, chunks)

    def _chunks(self, session: SessionId, stop: int) -> Iterable[tuple[int, Rows]]:
        if stop == 0:
            return
        first = self._rows(session, 0, 1)
        step = max(1, self._seed_chunk_bytes // max(1, first.nbytes))
        for start in range(0, stop, step):
            yield start, self._rows(session, start, min(start + step, stop))

    def _unplace(self, session: SessionId, placement: _Placement) -> None:
        name, placement.drafter = placement.drafter, None
        seeding, placement.seeding = placement.seeding, None
        unopened, placement.unopened = placement.unopened, False
        placement.opening = False
        placement.question = placement.block = None
        if name is None or name not in self._drafters:
            return
        drafter = self._drafters[name]
        drafter.sessions.discard(session)
        if seeding is not None:
            drafter.orphans[seeding] = session
        elif not unopened:
            drafter.released.append(session)

    def _lose(self, name: ReplicaName, incarnation: Incarnation) -> None:
        drafter = self._drafters.get(name)
        if drafter is None or drafter.incarnation != incarnation:
            return
        del self._drafters[name]
        log.info("drafter %s lost; %d sessions move", name, len(drafter.sessions))
        for session in drafter.sessions:
            placement = self._sessions.get(session)
            if placement is not None:
                if placement.question is not None:
                    self.outcomes[Cause.LOST.value] += 1
                self._unplace(session, placement)
                self._place(session)

    def _replied(self, event: Replied, now_s: float) -> None:
        reply: RoundReply = event.reply
        self.draft_bytes += event.num_bytes
        share = event.num_bytes // max(1, len(reply.blocks))
        drafter = self._drafters.get(event.drafter)
        timed, hits = False, 0
        for block in reply.blocks:
            placement = self._sessions.get(block.session)
            if placement is None:
                continue  # the session ended meanwhile
            question = placement.question if placement.drafter == event.drafter else None
            cause = judge_block(
                question,
                block,
                incarnation=reply.incarnation,
                round_=reply.number,
                vocab_size=self._vocab_size,
            )
            if cause is Cause.HIT:
                hits += 1
            else:
                self.outcomes[cause.value] += 1
                if cause in _NO_ANSWER:
                    continue
            assert question is not None
            if not timed:  # the questions of one round were all sent at once
                self._deadline.observe(now_s - question.sent_s)
                timed = True
            opening, placement.opening = placement.opening, False
            placement.question = None
            placement.draft_bytes += share
            if cause is Cause.HIT:
                placement.block = block
            elif opening and block.status is DraftStatus.FULL:
                self._leave_alone(event.drafter)
                self._unplace(block.session, placement)
            elif block.status is DraftStatus.NOT_SEEDED:
                self._seed(block.session, placement)
        if hits:
            self.outcomes[Cause.HIT.value] += hits
        if reply.draining and drafter is not None and drafter.incarnation == reply.incarnation:
            drafter.closed_until = math.inf
            self._empty(event.drafter)

    def _seeded(self, event: Seeded) -> None:
        drafter = self._drafters.get(event.drafter)
        if drafter is not None and event.seeding in drafter.orphans:
            orphan = drafter.orphans.pop(event.seeding)
            if orphan not in drafter.sessions:
                drafter.released.append(orphan)
        placement = self._sessions.get(event.session)
        if placement is None or placement.seeding != event.seeding:
            return
        placement.seeding = None
        if event.status is DraftStatus.OK and event.cached_rows == placement.sent_rows:
            return
        if event.drafter in self._drafters:
            self._leave_alone(event.drafter)
        self._unplace(event.session, placement)
