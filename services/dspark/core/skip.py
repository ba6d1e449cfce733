"""Skip: which sessions are not worth drafting for a while.

A budget trims drafts that were made; a session whose drafts hardly ever survive costs the drafter
a place in every batch all the same (the open limitation of the paper, Section 6).  Drafting one
more session adds a accepted tokens to a round and c marginal seconds to both sides; it pays while
those tokens come faster than the others of the round:

    tau / C > (tau - a) / (C - c)   <=>   a / c > (tau - a) / (C - c)

Only committed rounds of the session itself decide, never a draft that is still to be judged.
"""

import math
from dataclasses import dataclass
from functools import partial

from dspark.core.cohorts import Cohorts, cycle_seconds
from dspark.core.curve import Curve, draft_seconds, step_seconds

_MIN_ROUNDS = 8
_WEIGHT = 0.08  # of the newest round: about 24 rounds count
_DOUBT = 2.0  # standard errors: a skipped user is a slower one, so bad luck must not look like it
_CLEARLY = 2.0
"""Drafts must cost so many times what they bring.  The price is an estimate of means, and where a
budget trims, a poor session's place in the step goes to others anyway: a pause gains little then,
and a wrong one loses all that the session's drafts would have brought."""
_FIRST_PAUSE = 8
_LONGEST_PAUSE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPrice:
    """What drafting one more session costs a round at the present load.

    Attributes:
        tokens_per_s: (tau - a) / (C - c): what a round yields without one session's draft.
        draft_s: Seconds that one more session adds to the drafter's batch, where the verifier
            waits for it; 0 where drafting hides behind verifying.
        token_s: Seconds that one more draft token adds to the verify step.
        wait_s: Seconds of a round beyond its verify step: drafting that nothing hides.
    """

    tokens_per_s: float
    draft_s: float
    token_s: float
    wait_s: float = 0.0

    def pays(self, *, accepted: float, verified: float) -> bool:
        """Whether so many accepted tokens a round are worth their drafting and verifying."""
        return accepted >= self.tokens_per_s * (self.draft_s + verified * self.token_s)


def draft_price(
    curve: Curve,
    drafter_curve: Curve,
    *,
    sessions: int,
    batch_tokens: float,
    committed_tokens: float,
    context_tokens: float,
    block_size: int,
    cohorts: Cohorts,
    outside_s: float,
) -> DraftPrice:
    """Return the price of a draft in steps like the present ones.

    Args:
        curve: The verifier's.
        drafter_curve: The drafter's.
        sessions: In a step, at least 1.
        batch_tokens: Mean tokens of such a step.
        committed_tokens: Mean tokens that it commits.
        context_tokens: Mean context of its sessions.
        block_size: gamma.
        cohorts: That alternate.
        outside_s: Seconds that a round spends outside both engines.
    """

    def verify_s(tokens: int) -> float:
        return step_seconds(
            curve, sessions=sessions, batch_tokens=tokens, context_tokens=context_tokens
        )

    draft_s = partial(draft_seconds, drafter_curve, block_size=block_size)
    size = max(round(batch_tokens), sessions + 1)
    step_s, batch_s = verify_s(size), draft_s(sessions=sessions)
    turn_s = cycle_seconds(cohorts, verify_s=step_s, draft_s=batch_s, round_trip_s=outside_s)
    hidden = cohorts == 2 and step_s >= batch_s and 2 * step_s >= step_s + batch_s + outside_s
    if hidden:
        one_more_s = 0.0
    elif sessions == 1:
        one_more_s = batch_s + outside_s  # without its draft there would be none at all
    else:
        one_more_s = (batch_s - draft_s(sessions=1)) / (sessions - 1)
    # Over one draft a session at least, or a single stair of the curve would be the price.
    wide = max(size, 2 * sessions)
    token_s = (verify_s(wide) - verify_s(sessions)) / (wide - sessions)
    # What an average session of these contributes and costs.
    accepted, verified = committed_tokens / sessions - 1.0, size / sessions - 1.0
    others_s = turn_s / cohorts - one_more_s - verified * token_s
    return DraftPrice(
        tokens_per_s=(committed_tokens - accepted) / others_s,
        wait_s=turn_s / cohorts - step_s,
        draft_s=one_more_s,
        token_s=token_s,
    )


class SkipState:
    """One session's recent rounds, and its pause."""

    __slots__ = ("_accepted", "_left", "_next_pause", "_rounds", "_squares", "_tried", "_verified")

    def __init__(self) -> None:
        self._rounds = 0
        self._accepted = 0.0
        self._squares = 0.0
        self._verified = 0.0
        self._left = 0  # requests that the present pause still lasts
        self._next_pause = _FIRST_PAUSE
        self._tried = True  # whether it was drafted since the last pause

    def observe(self, *, accepted: int, verified: int) -> None:
        """Note a committed round that had a draft."""
        self._rounds += 1
        weight = max(_WEIGHT, 1.0 / self._rounds)
        self._accepted += weight * (accepted - self._accepted)
        self._squares += weight * (accepted * accepted - self._squares)
        self._verified += weight * (verified - self._verified)

    def wants_draft(self, price: DraftPrice | None) -> bool:
        """Decide on the next round; called once for each.

        A session that does not pay pauses, is drafted once, and pauses twice as long where that
        did not mend it.

        Args:
            price: None where it is not known: then everybody drafts.
        """
        if price is None or self._rounds < _MIN_ROUNDS:
            return True
        if self._left > 0:
            self._left -= 1
            return False
        if price.pays(accepted=_CLEARLY * self._hoped(), verified=self._verified):
            self._next_pause, self._tried = _FIRST_PAUSE, True
            return True
        if not self._tried:
            self._tried = True
            return True
        self._tried = False
        self._left = self._next_pause - 1
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        return False

    def _hoped(self) -> float:
        """Return the most accepted tokens a round that its rounds leave plausible."""
        variance = max(self._squares - self._accepted**2, 1.0)
        rounds = min(self._rounds, 2 / _WEIGHT - 1)
        return self._accepted + _DOUBT * math.sqrt(variance / rounds)
