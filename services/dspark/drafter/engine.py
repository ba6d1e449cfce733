"""The drafter's engine: every waiting session of every verifier in one block forward.

It runs on a thread of its own; ``submit``, ``seed`` and ``forget`` may be called from any
thread and never block.  Answers leave through callbacks that must not block either.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from dspark.core.draft import (
    DraftBlock,
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
from dspark.telemetry import metrics

log = logging.getLogger(__name__)


class BlockModel(Protocol):
    """What the engine asks of a drafting model; not thread-safe."""

    @property
    def gamma(self) -> int:
        """Largest block."""

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        """Begin (or begin anew) a session; False when there is no room."""

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        """Cache context rows; return how many there are now; ValueError on a gap."""

    def cached(self, key: Hashable) -> int | None:
        """Rows cached for a session; None when it is unknown."""

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Draft one block for each request."""

    def close(self, key: Hashable) -> None:
        """Free a session; unknown ones are ignored."""


class VerifierKey(NamedTuple):
    """A verifier process, as the drafter tells them apart.

    A tuple: it is part of every session's key, and hashing a frozen dataclass takes four times as
    long.
    """

    replica: str
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class _Pending:
    verifier: VerifierKey
    round: Round
    reply: Callable[[RoundReply], object]
    arrived_s: float


@dataclass(slots=True)
class Totals:
    """Sums since the start, read by the load report."""

    batches: int = 0
    rounds: int = 0
    sessions: int = 0
    drafted_tokens: int = 0
    busy_s: float = 0.0
    queue_s: float = 0.0
    row_bytes: int = 0

    def copy(self) -> "Totals":
        """The sums as they are now."""
        return replace(self)


class DrafterEngine:
    """Owns a ``BlockModel`` and the thread that drives it."""

    def __init__(
        self,
        model: BlockModel,
        *,
        incarnation: Incarnation,
        pool: str,
        max_batch_sessions: int,
        max_pending_rounds: int,
    ) -> None:
        self._model = model
        self._incarnation = incarnation
        self._pool = pool
        self._max_batch_sessions = max_batch_sessions
        self._max_pending_rounds = max_pending_rounds
        self._condition = threading.Condition()
        self._rounds: deque[_Pending] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._sessions: dict[VerifierKey, set[SessionId]] = {}
        self._streams: Counter[VerifierKey] = Counter()
        self._running = False
        self._draining = False
        self._thread = threading.Thread(target=self._run, name="drafter-engine", daemon=True)
        self.failure: BaseException | None = None
        self.totals = Totals()

    def start(self) -> None:
        """Start the thread."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch in hand; pending rounds are dropped."""
        with self._condition:
            self._running = False
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def drain(self) -> None:
        """Tell verifiers, with every answer from now on, to move their sessions."""
        self._draining = True

    @property
    def num_sessions(self) -> int:
        """Sessions cached now."""
        # A copy: the engine's thread adds verifiers meanwhile.
        return sum(len(sessions) for sessions in list(self._sessions.values()))

    @property
    def num_waiting(self) -> int:
        """Rounds that wait."""
        return len(self._rounds)

    def submit(
        self, verifier: VerifierKey, round_: Round, reply: Callable[[RoundReply], object]
    ) -> None:
        """Queue a round; ``reply`` is called once, from the engine's thread."""
        pending = _Pending(verifier, round_, reply, time.monotonic())
        with self._condition:
            if len(self._rounds) >= self._max_pending_rounds:
                # The rows must still be absorbed, or the cache would have a gap.
                overdue = self._rounds.popleft()
                self._errands.append(lambda: self._refuse(overdue))
            self._rounds.append(pending)
            self._condition.notify()

    def open(
        self,
        verifier: VerifierKey,
        session: SessionId,
        sampling: Sampling,
        done: Callable[[bool], object],
    ) -> None:
        """Begin a session; ``done`` hears whether there was room."""

        def errand() -> None:
            done(self._open(verifier, session, sampling))

        self._send(errand)

    def seed(
        self,
        verifier: VerifierKey,
        session: SessionId,
        start: int,
        rows: Rows,
        done: Callable[[int], object],
    ) -> None:
        """Cache rows of a session; ``done`` hears how many are cached (-1: refused)."""

        def errand() -> None:
            done(self._append(verifier, session, start, rows))

        self._send(errand)

    def attach(self, verifier: VerifierKey) -> None:
        """Let a verifier open sessions: a rounds stream of it is up.

        It starts with none: what an older stream of the same verifier left is freed.
        """

        def errand() -> None:
            self._free(verifier)
            self._streams[verifier] += 1
            self._sessions[verifier] = set()

        self._send(errand)

    def forget(self, verifier: VerifierKey) -> None:
        """A rounds stream of a verifier ended: free its sessions, and let it open no more.

        A verifier may be back before its broken stream is noticed here; then the newer stream
        keeps what it has.
        """

        def errand() -> None:
            self._streams[verifier] -= 1
            if self._streams[verifier] <= 0:
                del self._streams[verifier]
                self._free(verifier)

        self._send(errand)

    def _free(self, verifier: VerifierKey) -> None:
        for session in self._sessions.pop(verifier, set()):
            self._model.close((verifier, session))

    def _send(self, errand: Callable[[], None]) -> None:
        with self._condition:
            self._errands.append(errand)
            self._condition.notify()

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while self._running and not self._errands and not self._rounds:
                        self._condition.wait()
                    if not self._running:
                        return
                    errands, batch = list(self._errands), self._take_batch()
                    self._errands.clear()
                for errand in errands:
                    errand()
                if batch:
                    self._draft(batch)
        except BaseException as error:
            self.failure = error
            log.exception("the drafter engine died")

    def _take_batch(self) -> list[_Pending]:
        """Take whole rounds, oldest first, up to the batch bound (at least one)."""
        batch: list[_Pending] = []
        sessions = 0
        while self._rounds:
            sessions += len(self._rounds[0].round.sessions)
            if batch and sessions > self._max_batch_sessions:
                break
            batch.append(self._rounds.popleft())
        return batch

    def _draft(self, batch: list[_Pending]) -> None:
        began_s = time.monotonic()
        requests: list[DraftRequest] = []
        outcomes: list[list[DraftBlock | tuple[SessionRound, int]]] = []
        # All rows first: where a session is in the batch twice, only its newest question holds.
        absorbed = [(pending, self._absorb(pending)) for pending in batch]
        asked: set[Hashable] = set()
        for pending, parts_in in absorbed:
            outcomes.append([])
            for part, absorbed_as in parts_in:
                key = (pending.verifier, part.session)
                overtaken = key in asked or self._model.cached(key) != part.base_length
                status = (
                    DraftStatus.NOT_SEEDED
                    if overtaken and absorbed_as is DraftStatus.OK
                    else absorbed_as
                )
                if status is not DraftStatus.OK or part.max_tokens == 0:
                    block = DraftBlock(
                        session=part.session, base_length=part.base_length, status=status
                    )
                    outcomes[-1].append(block)
                    continue
                outcomes[-1].append((part, len(requests)))
                asked.add(key)
                requests.append(
                    DraftRequest(
                        key=key,
                        anchor=part.anchor,
                        base_length=part.base_length,
                        max_tokens=min(part.max_tokens, self._model.gamma),
                    )
                )
        proposals = self._model.draft(requests) if requests else []
        spent_s = time.monotonic() - began_s
        self._count(batch, requests, proposals, began_s, spent_s)
        for pending, parts in zip(batch, outcomes, strict=True):
            blocks = [
                part if isinstance(part, DraftBlock) else _block(part[0], proposals[part[1]])
                for part in parts
            ]
            pending.reply(
                RoundReply(
                    number=pending.round.number,
                    incarnation=self._incarnation,
                    blocks=tuple(blocks),
                    draft_s=spent_s,
                    queue_s=began_s - pending.arrived_s,
                    draining=self._draining,
                )
            )

    def _absorb(self, pending: _Pending) -> list[tuple[SessionRound, DraftStatus]]:
        """Free what was released, cache the new rows, and check the round's invariant."""
        for session in pending.round.released:
            self._sessions.get(pending.verifier, set()).discard(session)
            self._model.close((pending.verifier, session))
        result = []
        for part in pending.round.sessions:
            if part.opens is not None and not self._open(
                pending.verifier, part.session, part.opens
            ):
                result.append((part, DraftStatus.FULL))
                continue
            cached = self._append(pending.verifier, part.session, part.rows_start, part.rows)
            status = DraftStatus.OK if cached == part.base_length else DraftStatus.NOT_SEEDED
            result.append((part, status))
        return result

    def _open(self, verifier: VerifierKey, session: SessionId, sampling: Sampling) -> bool:
        # Without a rounds stream nobody would free the session.
        known = self._sessions.get(verifier)
        if known is None or not self._model.open((verifier, session), sampling):
            return False
        known.add(session)
        return True

    def _append(self, verifier: VerifierKey, session: SessionId, start: int, rows: Rows) -> int:
        key = (verifier, session)
        cached = self._model.cached(key)
        if rows.ndim != 2:
            log.warning("rows of session %s refused: their shape is %s", session, rows.shape)
            return -1
        if cached is None or cached != start:
            # A gap or a repeat: only seeding anew can mend it.
            return -1 if len(rows) or cached is None else cached
        if not len(rows):
            return cached
        self.totals.row_bytes += rows.nbytes
        try:
            return self._model.append(key, start, rows)
        except (MemoryError, ValueError) as error:
            # No room, or rows of another width: this session is seeded anew or goes plainly.
            log.warning("rows of session %s refused: %s", session, error)
            return -1

    def _refuse(self, pending: _Pending) -> None:
        """Absorb an overdue round's rows and answer it without drafts."""
        blocks = tuple(
            DraftBlock(
                session=part.session,
                base_length=part.base_length,
                # A session that was opened has its room, only no draft this time.
                status=status if part.opens is not None else DraftStatus.FULL,
            )
            for part, status in self._absorb(pending)
        )
        pending.reply(
            RoundReply(number=pending.round.number, incarnation=self._incarnation, blocks=blocks)
        )

    def _count(
        self,
        batch: list[_Pending],
        requests: list[DraftRequest],
        proposals: list[Proposal],
        began_s: float,
        spent_s: float,
    ) -> None:
        self.totals.batches += 1
        self.totals.rounds += len(batch)
        self.totals.sessions += len(requests)
        self.totals.drafted_tokens += sum(len(proposal.tokens) for proposal in proposals)
        self.totals.busy_s += spent_s
        self.totals.queue_s += sum(began_s - pending.arrived_s for pending in batch)
        metrics.DRAFT_STEP_SECONDS.labels(self._pool).observe(spent_s)
        metrics.DRAFT_BATCH_SESSIONS.labels(self._pool).observe(len(requests))


def _block(part: SessionRound, proposal: Proposal) -> DraftBlock:
    return DraftBlock(
        session=part.session,
        base_length=part.base_length,
        status=DraftStatus.OK,
        tokens=proposal.tokens,
        confidences=proposal.confidences,
        laws=proposal.laws,
    )
