"""Cohorts: whether a verifier's sessions step all together or in two alternating halves.

With two cohorts one is drafted while the other is verified, so that drafting hides behind
verifying.  With few sessions a step is bound by memory, not by tokens: half the sessions cost
nearly as much as all of them, and one cohort is better.
"""

from typing import Literal, get_args

Cohorts = Literal[1, 2]
COHORTS: tuple[Cohorts, ...] = get_args(Cohorts)


def cycle_seconds(
    cohorts: Cohorts, *, verify_s: float, draft_s: float, round_trip_s: float
) -> float:
    """Return the seconds in which every session completes one round.

    Within a cohort drafting and verifying follow each other; verifier and drafter each do one
    thing at a time.  So two cohorts complete a round in the longest of: both verified, both
    drafted, one going all the way round.

    Args:
        cohorts: 1, all sessions in each step; or 2, half of them.
        verify_s: Seconds of one verify step of one cohort.
        draft_s: Seconds of one draft step of one cohort.
        round_trip_s: Seconds a round spends outside both engines.
    """
    lap_s = verify_s + draft_s + round_trip_s
    if cohorts == 1:
        return lap_s
    return max(2 * verify_s, 2 * draft_s, lap_s)


def choose_cohorts(
    *,
    sessions: int,
    one_tokens_per_s: float,
    two_tokens_per_s: float,
    current: Cohorts = 1,
    margin: float = 0.05,
) -> Cohorts:
    """Choose by tokens a second, and change only for a gain.

    Args:
        sessions: Sessions to place; fewer than two cannot be split.
        one_tokens_per_s: Tokens committed by all sessions in a round / ``cycle_seconds(1, ...)``.
        two_tokens_per_s: The same by both cohorts / ``cycle_seconds(2, ...)``.
        current: The choice in force.
        margin: Share by which the other choice must be better, so that noise does not flap.
    """
    if sessions < 2:
        return 1
    if current == 1:
        return 2 if two_tokens_per_s > one_tokens_per_s * (1.0 + margin) else 1
    return 1 if one_tokens_per_s > two_tokens_per_s * (1.0 + margin) else 2
