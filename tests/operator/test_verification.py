"""Verification policies: what is done follows from what is asked and what is held."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.policy import Mode, Policy
from dspark_operator.verification import Act, Asked, Held, Layer, Wish, next_act

CALM = Policy(mode=Mode.OFF)
WISH = Wish(policy=CALM, reason="VerificationPolicy calm")
OURS = Layer(policy=CALM, author="dspark-operator", reason=WISH.reason)
THEIRS = Layer(policy=Policy(cap=8), author="ada", reason="a peak")
OVERRIDE = Layer(policy=Policy(cap=4), author="ada", reason="a peak", until_unix_s=1_800_000_000.0)
CANARY = Layer(policy=Policy(cap=2, canary_share=0.1), author="ada", reason="a try")
BRIEF_CANARY = replace(CANARY, until_unix_s=1_800_000_000.0)
OLD = Layer(policy=Policy(floor=1), author="dspark-operator", reason=WISH.reason)
TRY = Wish(policy=Policy(cap=2, canary_share=0.1), reason="VerificationPolicy try")
OUR_CANARY = Layer(policy=TRY.policy, author="dspark-operator", reason=TRY.reason, change=9)


@pytest.mark.parametrize(
    ("wish", "layers", "act"),
    [
        (WISH, (), Act.SET),
        (WISH, (OURS,), Act.NOTHING),
        (WISH, (OLD,), Act.SET),
        (WISH, (THEIRS,), Act.SET),
        (WISH, (OURS, OVERRIDE), Act.NOTHING),
        (WISH, (OLD, OVERRIDE), Act.WAIT),
        (WISH, (OVERRIDE,), Act.WAIT),
        (Wish(policy=CALM, reason="another"), (OURS,), Act.SET),
        (WISH, (OURS, CANARY), Act.NOTHING),
        (WISH, (OLD, CANARY), Act.SET),
        (WISH, (OLD, BRIEF_CANARY), Act.WAIT),
        (WISH, (CANARY,), Act.SET),
        (None, (), Act.NOTHING),
        (None, (OURS,), Act.CLEAR),
        (None, (THEIRS,), Act.NOTHING),
        (None, (OURS, OVERRIDE), Act.WAIT),
        (None, (OVERRIDE,), Act.NOTHING),
    ],
)
def test_what_is_done_follows_from_what_is_asked_and_what_is_held(
    wish: Wish | None, layers: tuple[Layer, ...], act: Act
) -> None:
    assert next_act(Asked(whole=wish), Held(version=7, layers=layers)) is act


@pytest.mark.parametrize(
    ("asked", "layers", "act"),
    [
        (Asked(canary=TRY), (), Act.SET_CANARY),
        (Asked(canary=TRY), (OUR_CANARY,), Act.NOTHING),
        (Asked(canary=TRY), (THEIRS,), Act.SET_CANARY),
        (Asked(canary=TRY), (THEIRS, CANARY), Act.SET_CANARY),
        (Asked(canary=TRY), (THEIRS, BRIEF_CANARY), Act.WAIT),
        (Asked(canary=TRY), (THEIRS, OVERRIDE), Act.WAIT),
        (Asked(canary=TRY), (OURS, OUR_CANARY), Act.CLEAR),
        (Asked(whole=WISH, canary=TRY), (OURS,), Act.SET_CANARY),
        (Asked(whole=WISH, canary=TRY), (OURS, OUR_CANARY), Act.NOTHING),
        (Asked(whole=WISH, canary=TRY), (OLD, OUR_CANARY), Act.SET),
        (Asked(whole=WISH, canary=TRY), (OURS, OVERRIDE, OUR_CANARY), Act.NOTHING),
        (Asked(whole=WISH), (OURS, OUR_CANARY), Act.END_CANARY),
        (Asked(), (OUR_CANARY,), Act.END_CANARY),
        (Asked(), (THEIRS, OUR_CANARY), Act.END_CANARY),
        (Asked(), (THEIRS, OVERRIDE, OUR_CANARY), Act.WAIT),
        (Asked(), (THEIRS, CANARY), Act.NOTHING),
    ],
)
def test_a_canary_of_a_manifest_lies_beside_the_policy_of_all(
    asked: Asked, layers: tuple[Layer, ...], act: Act
) -> None:
    assert next_act(asked, Held(version=7, layers=layers)) is act


LAYER = st.sampled_from([OURS, OLD, THEIRS])


@given(
    st.sampled_from([None, WISH]),
    st.sampled_from([None, TRY]),
    st.lists(LAYER, max_size=1),
    st.lists(st.just(OVERRIDE), max_size=3),
    st.lists(st.sampled_from([CANARY, BRIEF_CANARY, OUR_CANARY]), max_size=1),
)
def test_what_has_a_time_to_live_is_never_ended_and_every_change_settles(
    whole: Wish | None,
    canary: Wish | None,
    base: list[Layer],
    overrides: list[Layer],
    canaries: list[Layer],
) -> None:
    asked = Asked(whole=whole, canary=canary)
    held = Held(version=1, layers=(*base, *overrides, *canaries))
    if overrides or BRIEF_CANARY in canaries:
        assert next_act(asked, held) in (Act.NOTHING, Act.WAIT)
        return
    for _ in range(3):
        act = next_act(asked, held)
        if act is Act.NOTHING:
            break
        held = Held(version=1, layers=_after(act, held))
    assert next_act(asked, held) is Act.NOTHING
    assert whole is None or held.policy == whole.policy
    assert (held.canary is not None and held.canary.policy == TRY.policy) or canary is None


def _after(act: Act, held: Held) -> tuple[Layer, ...]:
    """What the controller holds afterwards."""
    below = tuple(layer for layer in held.layers if layer.policy.canary_share is None)
    return {
        Act.SET: (OURS,),
        Act.CLEAR: (),
        Act.SET_CANARY: (*below, OUR_CANARY),
        Act.END_CANARY: below,
    }[act]
