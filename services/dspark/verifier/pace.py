"""Pace: whether this verifier's sessions step all together or in two alternating halves."""

from typing import Literal

from dspark.core.cohorts import Cohorts, choose_cohorts, cycle_seconds
from dspark.core.curve import Curve, curve_problem, draft_seconds, step_seconds
from dspark.core.refinement import MAX_RATIO
from dspark.core.skip import DraftPrice, draft_price

_RECONSIDER_STEPS = 64
_MIN_DRAFTED = 0.5
_CROWDING_WEIGHT = 0.5
_CROWDING_FADE = 0.05
_SETTLED_STEPS = 4
"""So many steps after a choice no other is made, whatever the load does."""


class Pace:
    """Holds the number of cohorts; reconsidered every so many steps, changed only for a gain."""

    def __init__(
        self, setting: Literal["auto", 1, 2], *, curve: Curve | None, block_size: int
    ) -> None:
        self._auto = setting == "auto"
        self.curve = curve
        self._block_size = block_size
        self._steps = 0
        self._considered = 0
        self._crowding = 1.0  # see surprised
        self.cohorts: Cohorts = 1 if setting == "auto" else setting

    def due(self, sessions: int) -> bool:
        """Count a step; say whether it is time to refine the curve and to reconsider.

        Args:
            sessions: Sessions that decode now: with twice or half as many it is time at once.
        """
        self._steps += 1
        moved = not self._considered / 2 < sessions < 2 * self._considered
        due = self._steps >= (_SETTLED_STEPS if moved else _RECONSIDER_STEPS)
        if due:
            self._steps, self._considered = 0, sessions
        return due

    def surprised(self, ratio: float) -> None:
        """Note what the steps since the last call took, over what the curve says of them.

        The curve is of steps that run alone.  Where drafter and verifier share cores or memory,
        two cohorts make both work at once and both slower; what that costs is seen only while
        there are two, and forgotten slowly while there is one, so that two are tried again.
        """
        if self.cohorts == 2:
            seen = min(max(ratio, 1.0), MAX_RATIO)
            self._crowding += _CROWDING_WEIGHT * (seen - self._crowding)
        else:
            self._crowding += _CROWDING_FADE * (1.0 - self._crowding)

    def reconsider(
        self,
        *,
        sessions: int,
        context_tokens: float,
        drafted_share: float,
        drafter_curve: Curve | None,
        round_trip_s: float,
    ) -> None:
        """Compare a cycle of one cohort with a cycle of two; without curves there is one.

        Args:
            sessions: Sessions that decode now.
            context_tokens: Their mean context.
            drafted_share: Of them, those that have drafts.
            drafter_curve: What a batch costs at the drafter.
            round_trip_s: Smoothed seconds of a draft round trip at the present choice.
        """
        if not self._auto:
            return
        if self.curve is None or drafter_curve is None or sessions < 2:
            self.cohorts = 1
            return
        if drafted_share < _MIN_DRAFTED:
            self.cohorts = 1  # there is hardly any drafting to hide
            return
        half = -(-sessions // 2)
        now = sessions if self.cohorts == 1 else half
        # What the observed round spent outside the drafter: wire, queues, other verifiers.
        outside_s = max(0.0, round_trip_s - self._draft_s(drafter_curve, now))
        one_s = self._cycle_s(1, sessions, context_tokens, drafter_curve, outside_s)
        two_s = self._cycle_s(2, half, context_tokens, drafter_curve, outside_s)
        # Either way every session completes one round a cycle: tokens a second go as 1 / cycle.
        self.cohorts = choose_cohorts(
            sessions=sessions,
            one_tokens_per_s=1.0 / one_s,
            two_tokens_per_s=1.0 / two_s,
            current=self.cohorts,
        )

    def price(
        self,
        *,
        sessions: int,
        context_tokens: float,
        batch_tokens: float,
        committed_tokens: float,
        drafter_curve: Curve | None,
        round_trip_s: float,
    ) -> DraftPrice | None:
        """Return what a draft costs a round now; None where a curve is missing.

        Args:
            sessions: Sessions that decode now.
            context_tokens: Their mean context.
            batch_tokens: Mean tokens of a session in a step.
            committed_tokens: Mean tokens that it gains there.
            drafter_curve: What a batch costs at the drafter.
            round_trip_s: Smoothed seconds of a draft round trip.
        """
        if not sessions or not batch_tokens:
            return None
        if self.curve is None or drafter_curve is None or curve_problem(self.curve) is not None:
            return None
        in_step = -(-sessions // self.cohorts)
        return draft_price(
            self.curve,
            drafter_curve,
            sessions=in_step,
            batch_tokens=in_step * batch_tokens,
            committed_tokens=in_step * committed_tokens,
            context_tokens=context_tokens,
            block_size=self._block_size,
            cohorts=self.cohorts,
            outside_s=max(0.0, round_trip_s - self._draft_s(drafter_curve, in_step)),
        )

    def _cycle_s(
        self,
        cohorts: Cohorts,
        sessions: int,
        context_tokens: float,
        drafter_curve: Curve,
        outside_s: float,
    ) -> float:
        return cycle_seconds(
            cohorts,
            verify_s=self._verify_s(sessions, context_tokens)
            * (self._crowding if cohorts == 2 else 1.0),
            draft_s=self._draft_s(drafter_curve, sessions),
            round_trip_s=outside_s,
        )

    def _verify_s(self, sessions: int, context_tokens: float) -> float:
        assert self.curve is not None
        return step_seconds(
            self.curve,
            sessions=sessions,
            batch_tokens=sessions * (1 + self._block_size),
            context_tokens=context_tokens,
        )

    def _draft_s(self, drafter_curve: Curve, sessions: int) -> float:
        return draft_seconds(drafter_curve, sessions=sessions, block_size=self._block_size)
