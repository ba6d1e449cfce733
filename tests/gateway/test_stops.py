from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark.gateway.stops import StopMatcher

TEXT = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=4)


def naive(text: str, stops: list[str]) -> str:
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


@settings(deadline=None, max_examples=60)
@given(TEXT, STOPS, st.lists(st.integers(0, 100), max_size=10))
def test_stopping_a_stream_equals_searching_the_whole_text(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    out = "".join(matcher.push(piece) for piece in pieces_of(text, cuts))
    if not matcher.stopped:
        out += matcher.finish()
    assert out == naive(text, stops)
    assert matcher.stopped == any(stop in text for stop in stops)


@settings(deadline=None, max_examples=60)
@given(TEXT, STOPS)
def test_no_more_is_held_back_than_may_become_a_stop(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    sent = matcher.push(text)
    held = text[len(sent) :]
    assert matcher.stopped or not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_is_found_across_pieces() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("one E") == "one "
    assert matcher.push("N") == ""
    assert matcher.push("D two") == ""
    assert matcher.stopped


def test_a_partial_match_that_fails_is_sent() -> None:
    matcher = StopMatcher(["aab"])
    assert matcher.push("aa") == ""
    assert matcher.push("a") == "a"
    assert matcher.finish() == "aa"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher([""])
