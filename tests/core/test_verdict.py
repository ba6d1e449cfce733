import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.session import FinishReason
from dspark.core.verdict import judge

STOP = 9
tokens = st.integers(0, 3)


def test_the_longest_matching_prefix_and_the_target_s_own_token_are_committed() -> None:
    verdict = judge([1, 2, 3], [1, 2, 7, 8], stop_tokens=(), remaining=9)
    assert (verdict.accepted, verdict.committed, verdict.finish) == (2, (1, 2, 7), None)


def test_all_accepted_yields_a_bonus_token() -> None:
    assert judge([1, 2], [1, 2, 3], stop_tokens=(), remaining=9).committed == (1, 2, 3)


def test_no_drafts_is_plain_decoding() -> None:
    assert judge([], [4], stop_tokens=(), remaining=1).committed == (4,)


def test_a_stop_token_inside_the_accepted_drafts_ends_there_without_a_bonus() -> None:
    verdict = judge([1, STOP, 3], [1, STOP, 3, 4], stop_tokens={STOP}, remaining=9)
    assert (verdict.accepted, verdict.committed) == (2, (1, STOP))
    assert verdict.finish is FinishReason.STOP


def test_a_stop_token_of_the_target_ends_the_session() -> None:
    verdict = judge([1], [STOP, 5], stop_tokens={STOP}, remaining=9)
    assert (verdict.accepted, verdict.committed) == (0, (STOP,))
    assert verdict.finish is FinishReason.STOP


def test_the_length_bound_cuts_the_block() -> None:
    verdict = judge([1, 2, 3], [1, 2, 3, 4], stop_tokens={STOP}, remaining=2)
    assert (verdict.accepted, verdict.committed) == (2, (1, 2))
    assert verdict.finish is FinishReason.LENGTH


def test_a_stop_token_at_the_bound_is_a_stop() -> None:
    verdict = judge([STOP], [STOP, 1], stop_tokens={STOP}, remaining=1)
    assert verdict.finish is FinishReason.STOP


@pytest.mark.parametrize(("drafts", "remaining"), [([1, 2], 3), ([1], 0)])
def test_lengths_that_do_not_fit_are_a_mistake(drafts: list[int], remaining: int) -> None:
    with pytest.raises(ValueError, match=r"need 3|remaining is 0"):
        judge(drafts, [1, 2], stop_tokens=(), remaining=remaining)


@given(st.lists(tokens, max_size=4), st.data(), st.integers(1, 6))
def test_whatever_is_drafted_the_tokens_are_the_target_s(
    drafts: list[int], data: st.DataObject, remaining: int
) -> None:
    """The target is a function of the position here: its tokens follow whatever was accepted."""
    size = len(drafts) + 1
    target = data.draw(st.lists(tokens, min_size=size, max_size=size))
    verdict = judge(drafts, target, stop_tokens={3}, remaining=remaining)
    count = len(verdict.committed)
    assert verdict.committed == tuple(target[:count])
    assert 1 <= count <= min(remaining, size)
    assert verdict.accepted in (count, count - 1)
    assert drafts[: verdict.accepted] == target[: verdict.accepted]
    assert (verdict.finish is FinishReason.STOP) == (verdict.committed[-1] == 3)
    assert 3 not in verdict.committed[:-1]
