"""Cohorts: whether a verifier's sessions step all together or in two alternating halves.

With two cohorts one is drafted while the other is verified, so that drafting hides behind
verifying.  With few sessions a step is bound by memory, not by tokens: half the sessions cost
nearly as much as all of them, and one cohort is better.
"""

from collections.abc import Sequence
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


def place_in_cohorts(present: Sequence[int | None], cohorts: Cohorts) -> list[int]:
    """Return each session's cohort, leaving as many as possible where they are.

    A session that changes its cohort is waited for: its draft was asked for a moment ago, and its
    turn has come.  So newcomers fill up the smaller half, and somebody moves only where the halves
    differ by more than an eighth of the sessions.

    Args:
        present: Where each session is, in order of admission; None: nowhere yet.
        cohorts: That alternate from now on.
    """
    if cohorts == 1:
        return [0] * len(present)
    placed = list(present)
    sizes = [placed.count(0), placed.count(1)]

    def move(index: int, to: int) -> None:
        placed[index] = to
        sizes[to] += 1

    for index, cohort in enumerate(placed):
        if cohort is None:
            move(index, 0 if sizes[0] <= sizes[1] else 1)
    if abs(sizes[0] - sizes[1]) > max(1, len(placed) // 8):
        larger = 0 if sizes[0] > sizes[1] else 1
        youngest = (index for index in reversed(range(len(placed))) if placed[index] == larger)
        while sizes[larger] - sizes[1 - larger] > 1:
            sizes[larger] -= 1
            move(next(youngest), 1 - larger)
    return [cohort or 0 for cohort in placed]
