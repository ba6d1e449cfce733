"""The journal of steps, kept in vLLM's worker: from what a step was to a note of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dspark.core.draft import DraftBlock
from dspark.engines.vllm.notes import RoundNote, StepNote

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step meant for one request.

    Attributes:
        request: vLLM's id.
        session: The pool's number.
        mode: What its confidences are calibrated for.
        sampled: Tokens that it yielded; 0 while the prompt still runs.
        committed: Of those, what the request keeps.
        context_tokens: Tokens committed before.
        generated_before: Of them, what follows the prompt.
    """

    request: str
    session: int
    mode: str
    sampled: int
    committed: int
    context_tokens: int
    generated_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What went to and came from drafters for one request's next draft."""

    block: DraftBlock
    row_bytes: int
    draft_bytes: int


class Journal:
    """Follows steps from ``begin`` to ``end``; worker's thread only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = self._ended_s = clock()
        self._going_on: frozenset[str] = frozenset()
        self._counts: Mapping[str, int] = {}
        self._verified: Mapping[str, int] = {}
        self._asked: Mapping[str, Sent] = {}

    def begin(self, scheduled: "SchedulerOutput") -> None:
        """A step begins."""
        self._began_s = self._clock()
        self._counts = dict(scheduled.num_scheduled_tokens)
        self._verified = {
            request: len(tokens)
            for request, tokens in scheduled.scheduled_spec_decode_tokens.items()
        }

    def end(
        self,
        outcomes: Sequence[Outcome],
        *,
        note: StepNote,
        waited_s: float,
        asked: Mapping[str, Sent],
    ) -> StepNote:
        """A step has ended, and the next one's drafts are here.

        Args:
            outcomes: Its requests.
            note: All that is known elsewhere; sizes, times and rounds are filled in.
            waited_s: Seconds that went by waiting for drafts.
            asked: What was drafted for the next step.
        """
        now_s = self._clock()
        busy = not self._going_on.isdisjoint(self._counts)
        # A prompt's last part yields the first token: that is no round.
        rounds = [each for each in outcomes if each.committed and each.generated_before]
        decoded = sum(1 + self._verified.get(each.request, 0) for each in rounds)
        batch_tokens = sum(self._counts.values())
        filled = replace(
            note,
            batch_tokens=batch_tokens,
            prompt_tokens=max(0, batch_tokens - decoded),
            step_s=max(0.0, now_s - self._began_s - waited_s),
            turn_s=max(0.0, now_s - self._ended_s - waited_s) if busy else None,
            rounds=tuple(self._round(each) for each in rounds),
        )
        self._ended_s, self._asked = now_s, asked
        self._going_on = frozenset(each.request for each in outcomes if each.committed)
        return filled

    def _round(self, outcome: Outcome) -> RoundNote:
        sent = self._asked.get(outcome.request)
        verified = self._verified.get(outcome.request, 0)
        return RoundNote(
            session=outcome.session,
            mode=outcome.mode,
            context_tokens=outcome.context_tokens,
            committed=outcome.committed,
            drafted=() if sent is None else sent.block.tokens,
            confidences=() if sent is None else sent.block.confidences,
            verified=verified,
            # One of the tokens is the target's own, unless what ended the request was a draft.
            accepted=min(outcome.sampled - 1, outcome.committed, verified),
            row_bytes=0 if sent is None else sent.row_bytes,
            draft_bytes=0 if sent is None else sent.draft_bytes,
        )
