from dataclasses import replace

import numpy as np
import pytest

from dspark.core.draft import DraftBlock, DraftStatus
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.drafting.fences import Cause, Question, judge_block

ASKED = Question(
    incarnation=Incarnation(7), round=4, base_length=10, max_tokens=3, sent_s=0.0, deadline_s=1.0
)
ANSWER = DraftBlock(
    session=SessionId(1),
    base_length=10,
    status=DraftStatus.OK,
    tokens=(5, 6, 7),
    confidences=(0.9, 0.5, 0.0),
)
NOTHING = replace(ANSWER, tokens=(), confidences=())


def cause(
    question: Question | None, block: DraftBlock, *, incarnation: int = 7, round_: int = 4
) -> Cause:
    return judge_block(
        question, block, incarnation=Incarnation(incarnation), round_=round_, vocab_size=8
    )


def test_the_answer_to_the_outstanding_question_is_a_hit() -> None:
    assert cause(ASKED, ANSWER) is Cause.HIT


def test_a_block_without_tokens_is_a_hit_too() -> None:
    assert cause(ASKED, NOTHING) is Cause.HIT


def test_nothing_outstanding_makes_a_duplicate() -> None:
    assert cause(None, ANSWER) is Cause.DUPLICATE


def test_another_incarnation_is_foreign() -> None:
    assert cause(ASKED, ANSWER, incarnation=8) is Cause.FOREIGN


@pytest.mark.parametrize("round_", [3, 5])
def test_another_round_is_stale(round_: int) -> None:
    assert cause(ASKED, ANSWER, round_=round_) is Cause.STALE


@pytest.mark.parametrize("base_length", [9, 11])
def test_another_base_length_is_stale(base_length: int) -> None:
    assert cause(ASKED, replace(ANSWER, base_length=base_length)) is Cause.STALE


@pytest.mark.parametrize("status", list(DraftStatus))
def test_an_answer_after_the_session_went_plainly_is_late(status: DraftStatus) -> None:
    assert cause(ASKED._replace(late=True), replace(NOTHING, status=status)) is Cause.LATE


@pytest.mark.parametrize(
    ("status", "expected"),
    [(DraftStatus.NOT_SEEDED, Cause.NOT_SEEDED), (DraftStatus.FULL, Cause.FULL)],
)
def test_a_drafter_that_has_no_draft_says_why(status: DraftStatus, expected: Cause) -> None:
    assert cause(ASKED, replace(NOTHING, status=status)) is expected


@pytest.mark.parametrize("status", list(DraftStatus))
def test_foreign_comes_before_stale_and_stale_before_late(status: DraftStatus) -> None:
    late = ASKED._replace(late=True)
    block = replace(NOTHING, status=status)
    assert cause(late, block, incarnation=8, round_=3) is Cause.FOREIGN
    assert cause(late, block, round_=3) is Cause.STALE


@pytest.mark.parametrize(
    "bad",
    [
        {"tokens": (1, 2, 3, 4), "confidences": (0.5,) * 4},
        {"tokens": (8,), "confidences": (0.5,)},
        {"tokens": (-1,), "confidences": (0.5,)},
        {"tokens": (1,), "confidences": (1.01,)},
        {"tokens": (1,), "confidences": (-0.01,)},
        {"tokens": (1,), "confidences": (float("nan"),)},
    ],
)
def test_a_block_that_no_honest_drafter_makes_is_malformed(bad: dict[str, tuple[int, ...]]) -> None:
    assert cause(ASKED, replace(ANSWER, **bad)) is Cause.MALFORMED  # type: ignore[arg-type]


def test_the_bounds_of_tokens_and_confidences_are_sound() -> None:
    edges = replace(ANSWER, tokens=(0, 7), confidences=(1.0, 0.0))
    assert cause(ASKED, edges) is Cause.HIT


def laws(*laws_: dict[int, float]) -> DraftLaws:
    return DraftLaws(
        counts=tuple(map(len, laws_)),
        ids=np.array([token for law in laws_ for token in law], dtype=np.int64),
        weights=np.array([share for law in laws_ for share in law.values()], dtype=np.float16),
    )


GOOD = ({5: 0.5, 6: 0.5}, {6: 1.0}, {0: 0.25, 3: 0.25, 7: 0.5})


def test_laws_that_could_draw_the_tokens_are_a_hit() -> None:
    asked = ASKED._replace(laws=True)
    assert cause(asked, replace(ANSWER, laws=laws(*GOOD))) is Cause.HIT
    assert cause(asked, NOTHING) is Cause.HIT
    assert cause(ASKED, replace(ANSWER, laws=laws(*GOOD))) is Cause.HIT  # not needed: not read


@pytest.mark.parametrize(
    "bad",
    [
        {6: 0.5, 7: 0.5},  # cannot draw its token
        {5: 0.5, 8: 0.5},  # outside the vocabulary
        {-1: 0.5, 5: 0.5},
        {5: 0.5, 6: 0.4},  # sums to less, or more
        {5: 1.5},
        {5: 1.5, 6: -0.5},
        {5: 1.0, 6: 0.0},
        {5: float("nan")},
        {5: float("inf")},
        {6: 0.5, 5: 0.5},  # not ascending
        {},
    ],
)
def test_laws_that_no_honest_drafter_ships_are_malformed(bad: dict[int, float]) -> None:
    block = replace(ANSWER, laws=laws(bad, *GOOD[1:]))
    assert cause(ASKED._replace(laws=True), block) is Cause.MALFORMED


def test_a_token_twice_in_a_law_is_malformed() -> None:
    twice = DraftLaws(
        counts=(2,), ids=np.array([5, 5]), weights=np.array([0.5, 0.5], dtype=np.float16)
    )
    block = replace(ANSWER, tokens=(5,), confidences=(0.5,), laws=twice)
    assert cause(ASKED._replace(laws=True), block) is Cause.MALFORMED


def test_drafts_without_laws_are_malformed_where_laws_are_needed() -> None:
    assert cause(ASKED._replace(laws=True), ANSWER) is Cause.MALFORMED
