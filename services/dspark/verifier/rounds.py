"""Rounds: draft, verify, commit, and ask again.  Used by the engine's thread only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from dspark.core.budget import DISABLED, OFF
from dspark.core.curve import Curve
from dspark.core.draft import DraftBlock, JudgedDraft
from dspark.core.ids import SessionId
from dspark.core.logits import TokenLogprobs
from dspark.core.observed import Observation
from dspark.core.session import FinishReason, Phase
from dspark.core.skip import DraftPrice
from dspark.core.verdict import judge, settle
from dspark.drafting.desk import Ask, DraftDesk
from dspark.telemetry import metrics
from dspark.verifier.calibration import mode_of
from dspark.verifier.guard import Guard
from dspark.verifier.session import VerifierSession, mean_context_tokens
from dspark.verifier.step import VerifyStep, plan_step
from dspark.verifier.step_metrics import StepMetrics
from dspark.verifier.target_port import Target
from dspark.verifier.window import LoadWindow, Sums

_PROBE_EVERY = 50
"""Where the budget says off, one round in so many still drafts, or it could never come back."""


_PULSE_WEIGHT = 0.1


class Pulse:
    """What a session has in a step and gains from it, smoothed.

    Of a session, not of a step: what steps of another load carried says nothing of the present
    ones when sessions came or went.
    """

    def __init__(self) -> None:
        self.batch_tokens = 0.0
        self.committed_tokens = 0.0
        self.drafted_share = 1.0
        """Of the sessions in a step, those that had a draft."""

    def beat(self, sums: Sums) -> None:
        """Fold in a step that has sessions."""
        weight = _PULSE_WEIGHT if self.batch_tokens else 1.0
        batch_tokens = (sums.batch_tokens - sums.prompt_tokens) / sums.session_steps
        self.batch_tokens += weight * (batch_tokens - self.batch_tokens)
        committed_tokens = sums.committed_tokens / sums.session_steps
        self.committed_tokens += weight * (committed_tokens - self.committed_tokens)
        share = sums.drafted_steps / sums.session_steps
        self.drafted_share += _PULSE_WEIGHT * (share - self.drafted_share)


class BudgetSource(Protocol):
    """Where the budget is read, once a step."""

    def entry(self, *, sessions: int, mean_context_tokens: float, now_s: float) -> int | None:
        """Return K, ALL, OFF or DISABLED; None when there is no usable budget."""

    def weights(self, now_s: float) -> Mapping[int, float]:
        """Return what drafts count by priority; 1 where it is not listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """Of the rounds committed: survivals, what came true, and how often each position did."""

    survivals: list[tuple[float, ...]]
    observed: list[tuple[str, Observation]]
    accepted_at: list[int]


class Rounds:
    """Runs verify steps over sessions that it is given."""

    def __init__(
        self,
        target: Target,
        desk: DraftDesk | None,
        budget: BudgetSource,
        window: LoadWindow,
        *,
        curve: Curve | None,
        block_size: int,
        max_batch_tokens: int,
        prefill_chunk_tokens: int,
        pool: str,
        model_name: str,
        clock: Callable[[], float],
        guard: Guard | None,
        skips: bool,
        ended: Callable[[VerifierSession, Phase], None],
        prompt_done: Callable[[VerifierSession, int], None],
    ) -> None:
        self._target = target
        self._desk = desk
        self._budget = budget
        self._window = window
        self.curve = curve
        self._block_size = block_size
        self._max_batch_tokens = max_batch_tokens
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._model_name = model_name
        self._clock = clock
        self._guard = guard
        self._skips = skips
        self._ended = ended
        self._prompt_done = prompt_done
        self._num_requests = 0
        self._num_decoding = 1
        self._newcomers: list[VerifierSession] = []
        self._skipped = 0
        self._metrics = StepMetrics(pool=pool, model_name=model_name, block_size=block_size)
        self._budget_tokens = metrics.BUDGET_TOKENS.labels(pool)
        self.price: DraftPrice | None = None
        self.pulse = Pulse()

    def begin(self, session: VerifierSession, token: int) -> None:
        """Commit a session's first token, and open it at a drafter."""
        rows = session.computed
        now_s = self._clock()
        metrics.VLLM_TTFT.labels(self._model_name).observe(now_s - session.arrived_s)
        metrics.VLLM_PROMPT_TOKENS.labels(self._model_name).inc(len(session.generation.prompt))
        metrics.VLLM_GENERATION_TOKENS.labels(self._model_name).inc()
        session.enter(Phase.DECODING)
        verdict = judge(
            (), (token,), stop_tokens=session.generation.stop_tokens, remaining=session.remaining
        )
        self._commit(session, verdict.committed, verdict.finish)
        drafts = session.generation.speculate and not self._disabled(None)
        going = session.phase is Phase.DECODING
        if going and self._desk is not None and drafts:
            self._desk.open(session.id, session.generation.sampling, rows)
            self._newcomers.append(session)

    def ask_newcomers(self) -> None:
        """Ask for drafts of those that just began, all in one round, for their very first step.

        Where others are drafted already they join those' next round instead: nobody waits for them.
        """
        began, self._newcomers = self._newcomers, []
        if self._desk is None or not began or self._desk.under_way:
            return
        entry = self._budget.entry(
            sessions=self._num_decoding,
            mean_context_tokens=mean_context_tokens(began),
            now_s=self._clock(),
        )
        self._request(began, entry)

    def step(
        self, decoding: Sequence[VerifierSession], prefilling: Sequence[VerifierSession]
    ) -> VerifyStep:
        """Run one target forward over these sessions, commit what it yields and return it."""
        began_s = self._clock()
        entry = self._entry(decoding, began_s)
        blocks = self._take_drafts(decoding)
        step = plan_step(
            decoding,
            prefilling,
            {} if self._disabled(entry) else blocks,
            entry=entry,
            curve=self.curve,
            max_batch_tokens=self._max_batch_tokens,
            prefill_chunk_tokens=self._prefill_chunk_tokens,
            wait_s=0.0 if self.price is None else self.price.wait_s,
            weights=self._budget.weights(began_s),
        )
        planned_s = self._clock()
        chosen = self._target.step(step.segments)
        chosen_s = self._clock()
        sums = Sums(steps=1, batch_tokens=step.batch_tokens)
        judged = self._judge(step, chosen, blocks, sums)
        for (session, count), tokens in zip(
            step.prefilling, chosen[len(step.decoding) :], strict=True
        ):
            session.computed += count
            sums.prompt_tokens += count
            if tokens:
                self._prompt_done(session, tokens[0])
        sums.schedule_s = planned_s - began_s + self._clock() - chosen_s
        self._request(decoding, entry)
        sums.skipped_sessions, self._skipped = self._skipped, 0
        sums.step_s = self._clock() - began_s
        if step.decoding:
            self.pulse.beat(sums)
        self._window.step(sums=sums, survivals=judged.survivals, observed=judged.observed)
        self._metrics.count(sums, judged.accepted_at)
        return step

    def _take_drafts(self, decoding: Sequence[VerifierSession]) -> dict[SessionId, DraftBlock]:
        if self._desk is None:
            return {}
        blocks = {}
        for session in decoding:
            block = self._desk.take(session.id, session.anchor_position)
            if block is not None and block.tokens:
                blocks[session.id] = block
        return blocks

    def _entry(self, decoding: Sequence[VerifierSession], now_s: float) -> int | None:
        if not decoding:
            return None
        self._num_decoding = len(decoding)
        entry = self._budget.entry(
            sessions=len(decoding),
            mean_context_tokens=mean_context_tokens(decoding),
            now_s=now_s,
        )
        if entry is not None:
            self._budget_tokens.set(entry)
        return entry

    def _disabled(self, entry: int | None) -> bool:
        """Whether speculation is switched off, here or for the pool: not even a probe is made."""
        return entry == DISABLED or (self._guard is not None and self._guard.tripped)

    def _judge(
        self,
        step: VerifyStep,
        chosen: Sequence[tuple[int, ...]],
        blocks: Mapping[SessionId, DraftBlock],
        sums: Sums,
    ) -> _Judged:
        """Commit every session's verdict."""
        survivals: list[tuple[float, ...]] = []
        observed: list[tuple[str, Observation]] = []
        accepted_rounds = [0] * (self._block_size + 1)  # how many drafts had so many accepted
        committed_tokens = context_tokens = verified_tokens = accepted_tokens = 0
        guard, block_size = self._guard, self._block_size
        for session, drafts, proposed, survived, segment, tokens in zip(
            step.decoding, step.drafts, step.proposed, step.survivals, step.segments, chosen,
            strict=False,  # prompts follow
        ):  # fmt: skip
            generation = session.generation
            stop_tokens, remaining = generation.stop_tokens, session.remaining
            if segment.laws is None:
                verdict = judge(drafts, tokens, stop_tokens=stop_tokens, remaining=remaining)
            else:  # judged by rejection already
                verdict = settle(tokens, stop_tokens=stop_tokens, remaining=remaining)
            accepted, committed, finish = verdict
            if guard is not None:
                guard.judged(session, segment, len(committed))
            session.computed += accepted + 1
            verified = len(drafts)
            session.stats.count(drafted=proposed, verified=verified, accepted=accepted)
            committed_tokens += len(committed)
            context_tokens += len(session.tokens)
            draft = None
            if proposed:
                verified_tokens += verified
                accepted_tokens += accepted
                accepted_rounds[accepted] += 1
                session.skip.observe(accepted=accepted, verified=verified)
                if verified:
                    known = min(len(committed), verified)
                    observed.append((mode_of(generation.sampling), (survived, known, accepted)))
                if proposed == block_size:
                    survivals.append(survived)
                if generation.trace:
                    block = blocks[session.id]
                    draft = JudgedDraft(
                        tokens=block.tokens,
                        confidences=block.confidences,
                        verified=verified,
                        accepted=accepted,
                    )
            self._commit(session, committed, finish, draft)
        sums.session_steps += len(step.decoding)
        sums.committed_tokens += committed_tokens
        sums.context_tokens += context_tokens
        sums.drafted_steps += sum(accepted_rounds)
        sums.proposed_tokens += sum(step.proposed)
        sums.verified_draft_tokens += verified_tokens
        sums.accepted_draft_tokens += accepted_tokens
        # The draft at position k was accepted where more than k were.
        accepted_at = list(accumulate(reversed(accepted_rounds[1:])))[::-1]
        return _Judged(survivals=survivals, observed=observed, accepted_at=accepted_at)

    def _commit(
        self,
        session: VerifierSession,
        tokens: tuple[int, ...],
        finish: FinishReason | None,
        draft: JudgedDraft | None = None,
    ) -> None:
        logprobs: tuple[TokenLogprobs, ...] = ()
        if session.processor is not None:
            if session.processor.failure is not None:
                session.sink.fail(session.processor.failure, anywhere=True)
                self._ended(session, Phase.CANCELLED)
                return
            logprobs = session.processor.commit(tokens)
        session.tokens.extend(tokens)
        if self._desk is not None:
            session.stats.draft_bytes = self._desk.draft_bytes_of(session.id)
        session.sink.commit(tokens, session.stats, logprobs, draft)
        if finish is not None:
            session.sink.finish(finish, session.stats)
            self._ended(session, Phase.FINISHED)

    def _request(self, sessions: Sequence[VerifierSession], entry: int | None) -> None:
        """Ask for the next drafts of those that go on."""
        going = [session for session in sessions if session.phase is Phase.DECODING]
        if self._desk is None or not going:
            return
        self._num_requests += 1
        if self._disabled(entry) or (entry == OFF and self._num_requests % _PROBE_EVERY):
            return
        asks = [
            Ask(
                session=session.id,
                base_length=session.anchor_position,
                anchor=session.tokens[-1],
                max_tokens=bound,
            )
            for session in going
            if session.generation.speculate
            and (bound := session.draft_bound(self._block_size)) > 0
            and self._worth_drafting(session)
        ]
        sent_bytes = self._desk.request(asks, self._clock())
        for session in going:
            session.stats.row_bytes += sent_bytes.get(session.id, 0)

    def _worth_drafting(self, session: VerifierSession) -> bool:
        # Who asks for a length gets it.
        pinned = session.generation.max_draft_tokens > 0 or not self._skips
        worth = pinned or session.skip.wants_draft(self.price)
        self._skipped += not worth
        return worth
