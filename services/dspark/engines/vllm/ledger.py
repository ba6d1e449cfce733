"""The ledger: what each generation's tokens took, and what the engine did since the last report.

Notes come over the line a little before the tokens that they speak of; they are joined by position.
A note that was lost leaves its tokens without a draft in the books, and nothing else.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dspark.core.draft import JudgedDraft, survivals
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import SessionId
from dspark.core.observed import Observation
from dspark.core.refinement import Refinement
from dspark.engines.vllm.notes import RoundNote, StepNote
from dspark.engines.vllm.port import OwnStep
from dspark.telemetry import metrics
from dspark.verifier.step_metrics import StepMetrics
from dspark.verifier.window import LoadWindow, Sums


@dataclass(slots=True)
class Account:
    """One generation's.

    Attributes:
        stats: Its counts so far.
        position: Tokens committed so far, the prompt included.
        first: Whether its first token is still to come.
        trace: Whether drafts are shown.
        rounds: Notes of tokens that are still to come, in order.
    """

    stats: GenerationStats
    position: int
    first: bool
    trace: bool
    rounds: deque[RoundNote] = field(default_factory=deque)

    def split(self, num_tokens: int) -> Iterator[tuple[int, JudgedDraft | None]]:
        """Yield (tokens, their draft) step by step, the counts as they were after each.

        Args:
            num_tokens: Tokens that came, of one step or of several.
        """
        if self.first and num_tokens:
            self.first = False
            yield self._go_on(1, None)
            num_tokens -= 1
        while num_tokens > 0:
            while self.rounds and self.rounds[0].context_tokens < self.position:
                self.rounds.popleft()
            round_ = self.rounds[0] if self.rounds else None
            if round_ is None or round_.context_tokens >= self.position + num_tokens:
                count = num_tokens
                self.stats.count(drafted=0, verified=0, accepted=0)
                yield self._go_on(count, None)
            elif round_.context_tokens > self.position:
                count = round_.context_tokens - self.position
                self.stats.count(drafted=0, verified=0, accepted=0)
                yield self._go_on(count, None)
            else:
                count = min(round_.committed, num_tokens)
                self.rounds.popleft()
                yield self._go_on(count, self._judged(round_))
            num_tokens -= count

    def settle(self, histogram: Sequence[int], verified: int) -> None:
        """Take over what vLLM itself counted of drafts of its own.

        Args:
            histogram: Steps that had a draft, by accepted drafts.
            verified: Drafts that it verified.
        """
        drafted = sum(histogram)
        self.stats.drafted_steps = drafted
        self.stats.plain_steps = max(0, self.stats.steps - drafted)
        self.stats.drafted_tokens = self.stats.verified_draft_tokens = verified
        self.stats.accepted_draft_tokens = sum(k * steps for k, steps in enumerate(histogram))
        self.stats.accepted_histogram = list(histogram)

    def _go_on(self, count: int, draft: JudgedDraft | None) -> tuple[int, JudgedDraft | None]:
        self.position += count
        return count, draft if self.trace else None

    def _judged(self, round_: RoundNote) -> JudgedDraft | None:
        accepted = min(round_.accepted, self.stats.block_size)
        self.stats.count(drafted=len(round_.drafted), verified=round_.verified, accepted=accepted)
        self.stats.row_bytes += round_.row_bytes
        self.stats.draft_bytes = max(self.stats.draft_bytes, round_.draft_bytes)
        if not round_.drafted:
            return None
        return JudgedDraft(
            tokens=round_.drafted,
            confidences=round_.confidences,
            verified=round_.verified,
            accepted=round_.accepted,
        )


class Ledger:
    """Of one engine; its replica's event loop only."""

    def __init__(
        self,
        window: LoadWindow,
        *,
        pool: str,
        model_name: str,
        block_size: int,
        refinement: Refinement | None,
    ) -> None:
        self._window = window
        self._block_size = block_size
        self._refinement = refinement
        self._metrics = StepMetrics(pool=pool, model_name=model_name, block_size=block_size)
        self._budget_tokens = metrics.BUDGET_TOKENS.labels(pool)
        self._round_trips = metrics.DRAFT_RTT_SECONDS.labels(pool)
        self._generated = metrics.VLLM_GENERATION_TOKENS.labels(model_name)
        self._accounts: dict[SessionId, Account] = {}
        self.last: StepNote | None = None
        """The newest step."""

    def open(self, session: SessionId, generation: Generation) -> Account:
        """Begin a generation's account."""
        account = Account(
            stats=GenerationStats(block_size=self._block_size),
            position=len(generation.prompt) + len(generation.committed),
            first=True,
            trace=generation.trace,
        )
        self._accounts[session] = account
        return account

    def close(self, session: SessionId) -> None:
        """Forget it; unknown ones are ignored."""
        self._accounts.pop(session, None)

    def first_token(self) -> None:
        """A generation's first token came: it is of no step of the window's."""
        self._generated.inc()

    def take(self, note: StepNote) -> None:
        """Fold in a step."""
        self.last = note
        if not all(round_.session for round_ in note.rounds):
            return  # the last ones on trial, on their way out
        drafted = [round_ for round_ in note.rounds if round_.drafted]
        context_tokens = sum(round_.context_tokens for round_ in note.rounds)
        sums = Sums(
            steps=1,
            batch_tokens=note.batch_tokens,
            committed_tokens=sum(round_.committed for round_ in note.rounds),
            drafted_steps=len(drafted),
            proposed_tokens=sum(len(round_.drafted) for round_ in drafted),
            accepted_draft_tokens=sum(round_.accepted for round_ in drafted),
            verified_draft_tokens=sum(round_.verified for round_ in drafted),
            prompt_tokens=note.prompt_tokens,
            step_s=note.step_s,
            context_tokens=context_tokens,
            session_steps=len(note.rounds),
        )
        judged = [(round_, survivals(round_.confidences)) for round_ in drafted]
        observed: list[tuple[str, Observation]] = [
            (round_.mode, (survival, min(round_.committed, round_.verified), round_.accepted))
            for round_, survival in judged
            if round_.verified
        ]
        whole = [survival for _, survival in judged if len(survival) == self._block_size]
        self._window.step(sums=sums, survivals=whole, observed=observed)
        self._window.turn(note.step_s if note.turn_s is None else note.turn_s)
        self._metrics.count(sums, self._accepted_at(drafted))
        if note.entry is not None:
            self._budget_tokens.set(note.entry)
        for seconds in note.round_trips_s:
            self._round_trips.observe(seconds)
        # A step with a part of a prompt is another kind of step than the curve's.
        if self._refinement is not None and note.rounds and not note.prompt_tokens and note.turn_s:
            self._refinement.observe(
                sessions=len(note.rounds),
                batch_tokens=note.batch_tokens,
                context_tokens=context_tokens / len(note.rounds),
                step_s=note.turn_s,
            )
        for round_ in note.rounds:
            account = self._accounts.get(SessionId(round_.session))
            if account is not None:
                account.rounds.append(round_)

    def take_own(self, step: OwnStep) -> None:
        """Fold in a step of an engine without our proposer; ``first_token`` is not called then."""
        accepted = sum(step.accepted_at)
        sums = Sums(
            steps=1,
            batch_tokens=step.prompt_tokens + step.session_steps + step.verified_tokens,
            committed_tokens=step.committed_tokens,
            drafted_steps=step.drafted_steps,
            proposed_tokens=step.verified_tokens,
            accepted_draft_tokens=accepted,
            verified_draft_tokens=step.verified_tokens,
            prompt_tokens=step.prompt_tokens,
            step_s=step.step_s,
            session_steps=step.session_steps,
        )
        self._window.step(sums=sums, survivals=[])
        self._window.turn(step.step_s)
        self._metrics.count(sums, step.accepted_at)

    def _accepted_at(self, drafted: list[RoundNote]) -> list[int]:
        return [
            sum(round_.accepted > position for round_ in drafted)
            for position in range(self._block_size)
        ]
