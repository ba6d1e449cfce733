"""Fences: which drafts may be used.

A block is used only if it answers the one question outstanding for its session: same drafter
incarnation, same round, same base length.  Everything else is dropped and counted by cause.
But for blocks that cannot be (no honest drafter makes them), none of the causes depends on what
was drafted, so dropping cannot bias the output.
"""

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from dspark.core.draft import DraftBlock, DraftStatus
from dspark.core.ids import Incarnation


class Cause(Enum):
    """What became of a session's part of a round."""

    HIT = "hit"
    LATE = "late"  # the session went plainly before the answer came
    STALE = "stale"  # an answer to an older question
    DUPLICATE = "duplicate"  # nothing is outstanding for the session
    FOREIGN = "foreign"  # another drafter incarnation
    NOT_SEEDED = "not_seeded"
    FULL = "full"
    LOST = "lost"  # the drafter went away, or never answered
    MALFORMED = "malformed"  # tokens, confidences or laws that cannot be


class Question(NamedTuple):
    """What was asked for one session, and when it stops being worth waiting for.

    A tuple, as `core.draft.SessionRound` is: one is made for every session and round.

    ``laws``: the drafts are judged by rejection, so they must come with their laws.
    """

    incarnation: Incarnation
    round: int
    base_length: int
    max_tokens: int
    sent_s: float
    deadline_s: float
    late: bool = False
    laws: bool = False


def judge_block(
    question: Question | None,
    block: DraftBlock,
    *,
    incarnation: Incarnation,
    round_: int,
    vocab_size: int,
) -> Cause:
    """Return HIT if ``block`` answers ``question``, otherwise why it must be dropped."""
    if question is None:
        return Cause.DUPLICATE
    if incarnation != question.incarnation:
        return Cause.FOREIGN
    if round_ != question.round or block.base_length != question.base_length:
        return Cause.STALE
    if question.late:
        return Cause.LATE
    if block.status is DraftStatus.NOT_SEEDED:
        return Cause.NOT_SEEDED
    if block.status is DraftStatus.FULL:
        return Cause.FULL
    if (
        len(block.tokens) > question.max_tokens
        or not _within(block.tokens, vocab_size - 1)
        or not _within(block.confidences, 1.0)
    ):
        return Cause.MALFORMED
    if (
        question.laws
        and block.tokens
        and (block.laws is None or not block.laws.fits(block.tokens, vocab_size))
    ):
        return Cause.MALFORMED
    return Cause.HIT


def _within(values: Sequence[float], most: float) -> bool:
    """Whether all are numbers of 0 .. ``most``."""
    if not values:
        return True
    # What is no number passes min and max in some places, but no sum.
    return min(values) >= 0 and max(values) <= most and math.isfinite(sum(values))
