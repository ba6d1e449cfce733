"""Theta: committed tokens a second, the one thing that budgets maximise.

Theta(R, K) = tau(R, K) / cycle(R, K): the tokens that a round commits over the seconds in which
it completes, drafting included.  The search over K is global, never greedy: cost is a staircase,
and the best size may lie behind a step.  That is lossless here, and only here, because tau comes
from committed rounds and not from drafts that are still to be judged.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dspark.core.budget import ALL, OFF
from dspark.core.cohorts import Cohorts, choose_cohorts
from dspark.core.curve import Curve, draft_seconds, steps_seconds
from dspark.core.policy import Rules
from dspark.core.reservoir import Acceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCost:
    """What drafting costs a round.

    Attributes:
        curve: The drafters' own curve (sessions, drafted tokens); None: not known.
        observed_round_s: A draft round trip as verifiers saw it; 0: never drafted yet.
        observed_sessions: Sessions in such a round.
    """

    curve: Curve | None = None
    observed_round_s: float = 0.0
    observed_sessions: int = 1

    def split(self, sessions: int, block_size: int) -> tuple[float, float]:
        """Return (drafting, rest of the round trip) in seconds for a round of ``sessions``.

        Without a curve the whole observed round counts as drafting, at any size.
        """
        if self.curve is None:
            return self.observed_round_s, 0.0

        draft_s = partial(draft_seconds, self.curve, block_size=block_size)
        rest_s = max(self.observed_round_s - draft_s(sessions=self.observed_sessions), 0.0)
        return draft_s(sessions=sessions), rest_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Theta:
    """Tokens a second of one cohort size R by K = 0 .. R * gamma.

    Attributes:
        sessions: R in the step.
        off: Without drafting: R / T_v(R).
        one: [K + 1] with all of the verifier's sessions in this step.
        two: [K + 1] of both cohorts together, each of R sessions.
    """

    sessions: int
    off: float
    one: NDArray[np.float64]
    two: NDArray[np.float64]

    def by_cohorts(self, cohorts: Cohorts) -> NDArray[np.float64]:
        """Return the row for that many cohorts, per cohort of R sessions."""
        return self.one if cohorts == 1 else self.two / 2


def theta(
    acceptance: Acceptance,
    curve: Curve,
    draft: DraftCost,
    *,
    sessions: int,
    context_tokens: float,
) -> Theta:
    """Compute Theta for every K of a step of ``sessions`` at this context length."""
    draft_tokens = np.arange(sessions * acceptance.block_size + 1)
    tokens = acceptance.expected_tokens(sessions, draft_tokens)
    verify_s = steps_seconds(
        curve,
        sessions=sessions,
        batch_tokens=sessions + draft_tokens,
        context_tokens=context_tokens,
    )
    draft_s, rest_s = draft.split(sessions, acceptance.block_size)
    # core.cohorts.cycle_seconds, for all K at once.
    lap_s = verify_s + draft_s + rest_s
    return Theta(
        sessions=sessions,
        off=sessions / float(verify_s[0]),
        one=tokens / lap_s,
        two=2 * tokens / np.maximum(np.maximum(2 * verify_s, 2 * draft_s), lap_s),
    )


def choose_entry(row: NDArray[np.float64], off: float, sessions: int, rules: Rules) -> int:
    """Return K, ALL or OFF for one step size.

    Args:
        row: Theta by K.
        off: Theta without drafting.
        sessions: Sessions in the step.
        rules: Thresholds.
    """
    bar = off / (1.0 + rules.off_gain)
    if sessions < rules.activation_sessions:
        return OFF if bar > float(row[-1]) else ALL
    best = int(np.argmax(row))
    if best == 0 or bar > float(row[best]):
        return OFF  # K = 0 would pay the drafter for nothing
    if float(row[best]) <= float(row[-1]) * (1.0 + rules.trim_gain):
        return ALL
    return best


def keep_entry(
    row: NDArray[np.float64], off: float, chosen: int, previous: int, rules: Rules
) -> int:
    """Return ``previous`` unless ``chosen`` is worth the change."""
    gain = _value(row, off, chosen) / _value(row, off, previous) - 1.0
    return chosen if gain > rules.change_gain else previous


def promised_entry(
    row: NDArray[np.float64], off: float, sessions: int, chosen: int, rules: Rules
) -> int:
    """Return ``chosen``, or the fastest entry where it misses what sessions are promised."""
    if rules.min_tokens_per_s is None:
        return chosen
    if _value(row, off, chosen) >= rules.min_tokens_per_s * sessions:
        return chosen
    best = int(np.argmax(row))
    return OFF if best == 0 or off >= float(row[best]) else best


def cohorts_by_total(rows: list[Theta], total: int) -> Cohorts:
    """Choose one or two cohorts for ``total`` sessions; ``rows[i]`` is for i + 1 in the step."""
    whole, half = rows[min(total, len(rows)) - 1], rows[min(-(-total // 2), len(rows)) - 1]
    return better_cohorts(whole, half, total)


def better_cohorts(whole: Theta, half: Theta, total: int) -> Cohorts:
    """Choose one cohort of ``whole`` or two of ``half`` for ``total`` sessions."""
    return choose_cohorts(
        sessions=total,
        one_tokens_per_s=float(whole.one.max()) / whole.sessions,
        two_tokens_per_s=float(half.two.max()) / (2 * half.sessions),
    )


def _value(row: NDArray[np.float64], off: float, entry: int) -> float:
    if entry == OFF:
        return off
    return float(row[-1] if entry == ALL else row[min(entry, len(row) - 1)])
