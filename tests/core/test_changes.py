from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.changes import MAX_LAYERS, Layer, Layers, alive, canary_of, policy_of, put
from dspark.core.policy import DEFAULT_POLICY, Policy


def a_layer(cap: int, until_s: float | None = None) -> Layer:
    return Layer(
        number=cap, policy=Policy(cap=cap), author="ada", reason="a test", until_unix_s=until_s
    )


def stacked(*layers: Layer) -> Layers:
    made: Layers = ()
    for layer in layers:
        made = put(made, layer)
    return made


def test_nothing_asked_is_the_default() -> None:
    assert policy_of(()) == DEFAULT_POLICY


def test_a_change_for_good_replaces_everything() -> None:
    assert stacked(a_layer(1), a_layer(2, 9.0), a_layer(3)) == (a_layer(3),)


def test_what_is_below_returns_when_its_time_is_over() -> None:
    layers = stacked(a_layer(1), a_layer(2, 20.0), a_layer(3, 10.0))
    caps = [policy_of(alive(layers, unix_s)).cap for unix_s in (0.0, 9.9, 10.0, 20.0)]
    assert caps == [3, 3, 2, 1]


def test_a_longer_life_hides_a_shorter_one_for_good() -> None:
    assert stacked(a_layer(1, 10.0), a_layer(2, 20.0)) == (a_layer(2, 20.0),)


@given(st.lists(st.one_of(st.none(), st.floats(1.0, 100.0)), max_size=MAX_LAYERS))
def test_each_layer_ends_before_the_one_below_it(lives: list[float | None]) -> None:
    layers = stacked(*(a_layer(i, life) for i, life in enumerate(lives)))
    ends = [float("inf") if one.until_unix_s is None else one.until_unix_s for one in layers]
    assert ends == sorted(set(ends), reverse=True)
    if lives:
        assert layers[-1].number == len(lives) - 1, "the newest is in force"


def test_more_layers_than_anybody_can_follow_are_refused() -> None:
    layers = stacked(*(a_layer(i, 100.0 - i) for i in range(MAX_LAYERS)))
    with pytest.raises(ValueError, match="clear the pool's policy"):
        put(layers, a_layer(99, 1.0))


def test_a_canary_lies_on_top_and_ends_with_the_next_policy() -> None:
    canary = replace(a_layer(2), policy=Policy(cap=2, canary_share=0.1))
    layers = stacked(a_layer(4), canary)
    assert policy_of(layers) == Policy(cap=4)
    assert canary_of(layers) == canary.policy
    again = put(layers, replace(canary, number=3))
    assert [layer.number for layer in again] == [4, 3]
    promoted = put(again, a_layer(2))
    assert (policy_of(promoted), canary_of(promoted)) == (Policy(cap=2), None)
