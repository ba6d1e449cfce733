"""One step's drafts: ask for every request that goes on, wait up to the deadline, admit.

Used by vLLM's worker thread only.  Whatever is late, lost or missing means no drafts for that
request in that step.
"""

import itertools
import queue
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dspark.config.verifier import DraftingSettings
from dspark.core.admission import SessionDraft, admit
from dspark.core.budget import ALL, DISABLED, OFF
from dspark.core.curve import Curve
from dspark.core.draft import DraftBlock, Proposal, Rows, survivals
from dspark.core.ids import SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import Ask, DraftDesk
from dspark.drafting.events import DraftEvent
from dspark.drafting.port import DraftPort
from dspark.engines.vllm.journal import Sent

_PROBE_EVERY = 50
"""Where the budget says off, one step in so many still drafts, or it could never come back."""

_MAX_ROUND_TRIPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """A request that goes on after this step.

    Attributes:
        request: vLLM's id.
        num_tokens: Tokens committed so far; the last one is the anchor.
        anchor: That token.
        max_drafts: Most drafts worth asking for; 0 asks for none.
        sampling: How its drafts are drawn.
        priority: What a budget may weigh its drafts by.
    """

    request: str
    num_tokens: int
    anchor: int
    max_drafts: int
    sampling: Sampling
    priority: int = 0


class KeptRows(Protocol):
    """Rows that lie beside the KV."""

    def has(self, request: str, stop: int) -> bool:
        """Whether positions 0 .. stop - 1 of a request all have rows."""

    def read(self, request: str, start: int, stop: int) -> Rows:
        """Return rows [stop - start, D]."""


class BudgetSource(Protocol):
    """Where the budget is read, once a step."""

    def entry(self, *, sessions: int, mean_context_tokens: float, now_s: float) -> int | None:
        """Return K, ALL, OFF or DISABLED; None when there is no usable budget."""

    def weights(self, now_s: float) -> Mapping[int, float]:
        """Return what drafts count by priority; 1 where it is not listed."""


class DraftSteps:
    """Drives a desk for requests that another engine schedules."""

    def __init__(
        self,
        port: DraftPort,
        inbox: "queue.SimpleQueue[DraftEvent]",
        rows: KeptRows,
        *,
        settings: DraftingSettings,
        vocab_size: int,
        budget: BudgetSource | None,
        curve: Curve | None,
        clock: Callable[[], float],
        seeds: Iterator[int],
    ) -> None:
        """Take over a port whose events arrive in ``inbox``.

        ``seeds`` yields numbers 0 .. 2**63 - 1 that tell one request's draws from another's: equal
        texts in one round would otherwise be given equal drafts, and their outputs be correlated.
        """
        self._inbox = inbox
        self._rows = rows
        self.budget = budget
        self.curve = curve
        self.asked: Mapping[str, Sent] = {}
        """What was proposed for the next step, before admission, by request."""
        self.entry: int | None = None
        """The budget's entry that it was admitted by."""
        self.waited_s = 0.0
        """How long it was waited for."""
        self._round_trips_s: deque[float] = deque(maxlen=_MAX_ROUND_TRIPS)
        self._clock = clock
        self._seeds = seeds
        self._ids = itertools.count(1)
        self._sessions: dict[str, SessionId] = {}
        self._requests: dict[SessionId, str] = {}
        self._num_steps = 0
        self._deadline = Deadline(
            floor_s=settings.deadline_floor_s,
            factor=settings.deadline_factor,
            observed=self._round_trips_s.append,
        )
        self.desk = DraftDesk(
            port,
            rows=self._kept,
            deadline=self._deadline,
            seed_chunk_bytes=settings.seed_chunk_bytes,
            max_opening_bytes=0,  # a step of vLLM does not wait for a newcomer
            max_sessions_per_drafter=settings.max_sessions_per_drafter,
            vocab_size=vocab_size,
        )

    @property
    def deadline_s(self) -> float:
        """How long a step's drafts are waited for at present, at most."""
        return self._deadline.seconds

    def take_round_trips(self) -> tuple[float, ...]:
        """Return the newest round trips measured since the last call."""
        measured = tuple(self._round_trips_s)
        self._round_trips_s.clear()
        return measured

    @property
    def open_requests(self) -> tuple[str, ...]:
        """Requests that are drafted for."""
        return tuple(self._sessions)

    def close(self, request: str) -> None:
        """A request ended, or lost its KV: forget it here and at its drafter."""
        session = self._sessions.pop(request, None)
        if session is not None:
            del self._requests[session]
            self.desk.close(session)

    def flush(self) -> None:
        """Tell drafters of ended requests where no step is about to."""
        self._drain()
        self.desk.flush(self._clock())

    def propose(self, decoding: Sequence[Decoding]) -> dict[str, Proposal]:
        """Return the drafts to verify in the next step, by request; the others go plainly."""
        self._num_steps += 1
        self._drain()
        self.entry = entry = self._entry(decoding)
        asks = [] if self._silent(entry) else list(self._asks(decoding))
        sent_bytes = self.desk.request(asks, self._clock())
        asked_s = self._clock()
        self._wait([ask.session for ask in asks])
        self.waited_s = self._clock() - asked_s
        blocks: dict[SessionId, DraftBlock] = {}
        for ask in asks:
            block = self.desk.take(ask.session, ask.base_length)
            if block is not None and block.tokens:
                blocks[ask.session] = block
        self.asked = {
            self._requests[session]: Sent(
                block=block,
                row_bytes=sent_bytes.get(session, 0),
                draft_bytes=self.desk.draft_bytes_of(session),
            )
            for session, block in blocks.items()
        }
        lengths = self._admit(blocks, decoding, entry)
        return {
            self._requests[session]: _prefix(block, lengths[session])
            for session, block in blocks.items()
            if lengths[session]
        }

    def _entry(self, decoding: Sequence[Decoding]) -> int | None:
        if self.budget is None or not decoding:
            return None
        return self.budget.entry(
            sessions=len(decoding),
            mean_context_tokens=_mean_tokens(decoding),
            now_s=self._clock(),
        )

    def _silent(self, entry: int | None) -> bool:
        return entry == DISABLED or (entry == OFF and self._num_steps % _PROBE_EVERY != 0)

    def _asks(self, decoding: Sequence[Decoding]) -> list[Ask]:
        asks = []
        for part in decoding:
            if part.max_drafts < 1:
                continue
            base_length = part.num_tokens - 1
            if part.request not in self._sessions:
                # Rows are missing where KV was there before us: then it goes plainly.
                if not self._rows.has(part.request, base_length):
                    continue
                self._open(part, base_length)
            asks.append(
                Ask(
                    session=self._sessions[part.request],
                    base_length=base_length,
                    anchor=part.anchor,
                    max_tokens=part.max_drafts,
                )
            )
        return asks

    def _open(self, part: Decoding, num_rows: int) -> None:
        session = SessionId(next(self._ids))
        self._sessions[part.request] = session
        self._requests[session] = part.request
        self.desk.open(session, replace(part.sampling, seed=next(self._seeds)), num_rows)

    def _kept(self, session: SessionId, start: int, stop: int) -> Rows:
        return self._rows.read(self._requests[session], start, stop)

    def _drain(self) -> None:
        while not self._inbox.empty():
            self.desk.handle(self._inbox.get(), self._clock())

    def _wait(self, asked: Sequence[SessionId]) -> None:
        """Take what arrives until every question is answered, or its deadline has passed."""
        while (until_s := self.desk.pending_until(asked)) is not None:
            left_s = until_s - self._clock()
            if left_s <= 0:
                return
            try:
                event = self._inbox.get(timeout=left_s)
            except queue.Empty:
                return
            self.desk.handle(event, self._clock())

    def _admit(
        self,
        blocks: Mapping[SessionId, DraftBlock],
        decoding: Sequence[Decoding],
        entry: int | None,
    ) -> Mapping[SessionId, int]:
        if not blocks:
            return {}
        weights = {} if self.budget is None else self.budget.weights(self._clock())
        priorities = {part.request: part.priority for part in decoding}
        admission = admit(
            [
                SessionDraft(
                    session=session,
                    survivals=survivals(block.confidences),
                    weight=weights.get(priorities[self._requests[session]], 1.0),
                )
                for session, block in blocks.items()
            ],
            # Drafts under "off" are probes: they measure acceptance, so all of them are verified.
            entry=ALL if entry == OFF else entry,
            curve=self.curve,
            context_tokens=_mean_tokens(decoding),
            plain_sessions=len(decoding) - len(blocks),
        )
        return admission.lengths


def _mean_tokens(decoding: Sequence[Decoding]) -> float:
    return sum(part.num_tokens for part in decoding) / max(1, len(decoding))


def _prefix(block: DraftBlock, length: int) -> Proposal:
    return Proposal(
        tokens=block.tokens[:length],
        confidences=block.confidences[:length],
        laws=None if block.laws is None else block.laws.first(length),
    )
