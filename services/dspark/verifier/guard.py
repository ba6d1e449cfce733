"""The guard: some requests are decoded again, alone and plainly, while the verifier is idle.

A request is chosen by a coin when it arrives, before anything of it is known, and everything that
was committed counts, of cancelled requests too: so whether a request is checked does not depend on
its tokens, which the test of rejection needs (``core.guard``).  The check shares nothing with
serving but the target: it has pages of its own, no cached prefix, no prefill replica and no draft.
It gives way to a request within one step of one token or one chunk, and starts over there later.

Used by the engine's thread only; the counts may be read by others.
"""

import logging
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dspark.config.verifier import GuardSettings
from dspark.core.draft import JudgedDraft
from dspark.core.generation import Generation, GenerationStats
from dspark.core.guard import Drift, favoured
from dspark.core.ids import SessionId
from dspark.core.logits import TokenLogprobs
from dspark.core.pages import PageAllocator
from dspark.core.session import FinishReason
from dspark.core.verdict import judge
from dspark.telemetry import metrics
from dspark.verifier.session import VerifierSession
from dspark.verifier.step import plan_step
from dspark.verifier.target_port import Segment, Target

log = logging.getLogger(__name__)

_MAX_SEEDS = 65536
"""Seeds of rejection that are remembered: a repeated seed repeats its random numbers."""

Law = tuple[NDArray[np.int64], NDArray[np.float16]]


class GuardTarget(Target, Protocol):
    """A target that can also say what it draws from."""

    def law(self, segment: Segment) -> NDArray[np.float64]:
        """Run one segment; return the law [vocab] of the token after its last row."""


@dataclass(slots=True)
class _Candidate:
    """A request that was chosen.

    Attributes:
        generation: What was asked for.
        tokens: Prompt and what was committed; complete once ``over``.
        laws: The drafter's law by position, where drafts were judged by rejection.
        stats: Its counts, as they grow.
        checked: Positions before this one are right.
        over: Whether it has ended.
    """

    generation: Generation
    tokens: list[int]
    stats: GenerationStats
    checked: int
    laws: dict[int, Law] = field(default_factory=dict)
    over: bool = False


class Guard:
    """Chooses, remembers, checks, and switches speculation off."""

    def __init__(
        self,
        target: GuardTarget,
        pages: PageAllocator,
        settings: GuardSettings,
        *,
        pool: str,
        chunk_tokens: int,
        byte_stable: bool = True,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Begin with nothing chosen.

        Args:
            target: The model that serves.
            pages: Its pages.
            settings: How much to check, and when to act.
            pool: For the metrics.
            chunk_tokens: Most tokens of a step of the check.
            byte_stable: Whether the target's tokens do not depend on the batch; where they do
                (on GPUs), tokens that differ are counted and are no violation.
            draw: Uniform numbers in 0..1.
        """
        self._target = target
        self._pages = pages
        self._settings = settings
        self._pool = pool
        self._chunk_tokens = chunk_tokens
        self._byte_stable = byte_stable
        self._draw = draw
        self._queue: deque[_Candidate] = deque()
        self._open: dict[SessionId, _Candidate] = {}
        self._seeds: dict[tuple[int, int], None] = {}
        self._plain: VerifierSession | None = None
        self._drift = Drift()
        self._drifted = False
        self.checks = 0
        """Requests checked to their end or to their first mismatch."""
        self.violations = 0
        self.tripped = False
        """Speculation is off: no drafts are asked for or taken."""
        self._tokens = metrics.GUARD_TOKENS.labels(pool)
        self._evidence = metrics.GUARD_EVIDENCE.labels(pool)
        metrics.GUARD_TRIPPED.labels(pool).set(0)

    @property
    def pending(self) -> bool:
        """Whether there is something to check; asked only where no session is open."""
        return bool(self._queue)

    def chosen(self, session: VerifierSession) -> None:
        """Choose a new session, or not."""
        generation = session.generation
        if self.tripped or not generation.speculate or self._draw() >= self._settings.share:
            return
        if len(self._queue) >= self._settings.max_candidates:
            self._count("dropped")
            return
        sampling = generation.sampling
        if sampling.rejects:
            key = (sampling.seed, sampling.choice)
            if key in self._seeds:
                self._count("skipped")
                return
            self._seeds[key] = None
            if len(self._seeds) > _MAX_SEEDS:
                del self._seeds[next(iter(self._seeds))]
        candidate = _Candidate(
            generation=generation,
            tokens=session.tokens,
            stats=session.stats,
            checked=len(session.tokens),
        )
        self._queue.append(candidate)
        self._open[session.id] = candidate

    def judged(self, session: VerifierSession, segment: Segment, num_committed: int) -> None:
        """Remember what the tokens about to be committed were drafted from."""
        candidate = self._open.get(session.id)
        if candidate is None or segment.laws is None:
            return
        begin = 0
        for k, count in enumerate(segment.laws.counts[:num_committed]):
            kept = slice(begin, begin + count)
            candidate.laws[segment.start + 1 + k] = (
                segment.laws.ids[kept].copy(),
                segment.laws.weights[kept].copy(),
            )
            begin += count

    def ended(self, session: SessionId) -> None:
        """A session ended, in whatever way."""
        candidate = self._open.pop(session, None)
        if candidate is None:
            return
        candidate.over = True
        if not candidate.stats.drafted_steps or candidate.checked == len(candidate.tokens):
            self._queue.remove(candidate)
            self._count("skipped")

    def rest(self) -> None:
        """Give way: free the pages, keep how far the check is."""
        if self._plain is not None:
            assert self._plain.table is not None
            self._pages.release(self._plain.table)
            self._plain = None

    def step(self) -> None:
        """Run one step of the check of the first request chosen; no session is open."""
        self._check_on()
        if self.tripped:  # there is nothing left to prove
            self.rest()
            self._queue.clear()
            self._open.clear()

    def _check_on(self) -> None:
        candidate = self._queue[0]
        assert candidate.over, "a session is open, so the verifier is not idle"
        if self._plain is None:
            try:
                self._plain = self._begin(candidate)
            except ValueError as error:  # its rules forbid what was committed
                self._close("mismatch")
                self._accuse(candidate, str(error), proven=True)
                return
            if self._plain is None:
                return
        plain = self._plain
        # In the pages but for the last token: it is an anchor; else its context comes first.
        anchored = plain.computed == plain.anchor_position
        (segment,) = plan_step(
            [plain] if anchored else [],
            [] if anchored else [plain],
            {},
            entry=None,
            curve=None,
            max_batch_tokens=self._chunk_tokens,
            prefill_chunk_tokens=self._chunk_tokens,
        ).segments
        plain.computed = segment.start + len(segment.tokens)
        if not segment.choose:
            self._target.step([segment])
            return
        self._tokens.inc()
        position = len(plain.tokens)
        if candidate.generation.sampling.rejects:
            self._weigh(candidate, segment, position)
        else:
            problem = self._compare(candidate, segment, position, plain.remaining)
            if problem:
                self._close("mismatch")
                self._accuse(candidate, problem, proven=self._byte_stable)
                return
        plain.tokens.append(candidate.tokens[position])
        if plain.processor is not None:
            plain.processor.commit((candidate.tokens[position],))
        candidate.checked = position + 1
        if candidate.checked == len(candidate.tokens):
            self._close("drift" if self._drifted else "passed")

    def _begin(self, candidate: _Candidate) -> VerifierSession | None:
        right = tuple(candidate.tokens[len(candidate.generation.prompt) : candidate.checked])
        generation = replace(
            candidate.generation, committed=right, speculate=False, top_logprobs=None
        )
        processor = self._target.processor(generation) if generation.wants_processor else None
        table = self._pages.reserve(len(candidate.tokens))
        if table is None:
            return None
        return VerifierSession(
            id=SessionId(0),
            generation=generation,
            sink=_Nobody(),
            tokens=candidate.tokens[: candidate.checked],
            stats=GenerationStats(block_size=1),
            arrived_s=0.0,
            processor=processor,
            table=table,
            local=True,
        )

    def _compare(
        self, candidate: _Candidate, segment: Segment, position: int, remaining: int
    ) -> str | None:
        """Choose the next token plainly; say what differs."""
        ((token,),) = self._target.step([segment])
        committed = candidate.tokens[position]
        if token != committed:
            return f"token {committed} was committed at position {position}, plainly it is {token}"
        plain = judge(
            (), (token,), stop_tokens=candidate.generation.stop_tokens, remaining=remaining
        )
        if plain.finish is not None and position + 1 < len(candidate.tokens):
            return f"it went on after position {position}, where it ends plainly"
        return None

    def _weigh(self, candidate: _Candidate, segment: Segment, position: int) -> None:
        """Fold the token at ``position`` into the evidence."""
        law = candidate.laws.get(position)
        hit, chance = favoured(self._target.law(segment), candidate.tokens[position], law)
        self._drift.observe(hit=hit, chance=chance, drafted=law is not None)
        evidence = self._drift.log10
        self._evidence.set(evidence)
        if evidence < -math.log10(self._settings.false_alarm):
            return
        text = f"in {self._drift.num_positions} positions the law is not the target's"
        self._drift, self._drifted = Drift(), True
        self._accuse(candidate, text, proven=True)

    def _accuse(self, candidate: _Candidate, problem: str, *, proven: bool) -> None:
        log.error(
            "guard: request %s, decoded again without speculation: %s",
            candidate.generation.request_id,
            problem,
            extra={"request_id": candidate.generation.request_id},
        )
        if not proven:
            return
        self.violations += 1
        if self.violations >= self._settings.max_violations and not self.tripped:
            self.tripped = True
            metrics.GUARD_TRIPPED.labels(self._pool).set(1)
            log.critical(
                "guard: speculation is off after %d violations; restart the replica to clear it",
                self.violations,
            )

    def _close(self, outcome: str) -> None:
        self._queue.popleft()
        self.rest()
        self._drifted = False
        self.checks += 1
        self._count(outcome)

    def _count(self, outcome: str) -> None:
        metrics.GUARD_CHECKS.labels(self._pool, outcome).inc()


class _Nobody:
    """A check has no reader."""

    def commit(
        self,
        tokens: tuple[int, ...],
        stats: GenerationStats,
        logprobs: tuple[TokenLogprobs, ...] = (),
        draft: JudgedDraft | None = None,
    ) -> None:
        """Never called: checks commit nothing."""

    def finish(self, reason: FinishReason, stats: GenerationStats) -> None:
        """Never called."""

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        """Never called."""
