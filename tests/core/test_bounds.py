import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.bounds import bound_entry, bound_table
from dspark.core.budget import ALL, DISABLED, OFF, ContextBucket, disabled
from dspark.core.policy import DEFAULT_POLICY, Mode, Policy

TABLE = (
    ContextBucket(max_context_tokens=64, draft_tokens=(ALL, 9, 2, OFF)),
    ContextBucket(max_context_tokens=512, draft_tokens=(5, OFF)),
)


def entries(policy: Policy) -> list[tuple[int, ...]]:
    return [bucket.draft_tokens for bucket in bound_table(TABLE, policy)]


def test_the_default_policy_changes_nothing() -> None:
    assert bound_table(TABLE, DEFAULT_POLICY) == TABLE


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(cap=4), [(4, 4, 2, OFF), (4, OFF)]),
        (Policy(floor=4), [(ALL, 9, 4, 4), (5, 4)]),
        (Policy(floor=3, cap=4), [(4, 4, 3, 3), (4, 3)]),
        (Policy(cap=0), [(DISABLED,) * 4, (DISABLED,) * 2]),
        (Policy(mode=Mode.OFF), [(DISABLED,)]),
        (Policy(mode=Mode.VERIFY_ALL), [(ALL,)]),
        (Policy(mode=Mode.PINNED, draft_tokens=6), [(6,)]),
    ],
    ids=str,
)
def test_a_policy_bounds_every_entry(policy: Policy, expected: list[tuple[int, ...]]) -> None:
    assert entries(policy) == expected


@given(
    planned=st.integers(OFF, 500),
    bounds=st.tuples(st.integers(0, 200), st.integers(0, 200)).map(sorted),
)
def test_a_bounded_entry_lies_within_the_bounds(planned: int, bounds: list[int]) -> None:
    floor, cap = bounds
    entry, _ = bound_entry(planned, Policy(floor=floor, cap=cap))
    if cap == 0:
        assert entry == DISABLED
    else:
        assert floor <= entry <= cap or (entry == OFF == planned and floor == 0)


@pytest.mark.parametrize(
    "policy",
    [Policy(mode=Mode.VERIFY_ALL), Policy(floor=5), Policy(mode=Mode.PINNED, draft_tokens=3)],
)
def test_no_policy_brings_back_what_the_planner_switched_off(policy: Policy) -> None:
    assert bound_table(disabled(), policy) == disabled()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": Mode.PINNED}, "needs it"),
        ({"draft_tokens": 3}, "belongs to mode pinned"),
        ({"mode": Mode.OFF, "cap": 3}, "cap bounds mode auto; mode is off"),
        ({"floor": 5, "cap": 4}, "floor 5 is above cap 4"),
        ({"cap": -1}, "cap is -1"),
        ({"activation_sessions": 0}, "activation_sessions is 0"),
        ({"min_tokens_per_s": 0}, "min_tokens_per_s is 0"),
        ({"min_tokens_per_s": float("nan")}, "min_tokens_per_s is nan"),
        ({"canary_share": 1}, "canary_share is 1"),
        ({"mode": Mode.OFF, "priority_weights": ((0, 2.0),)}, "use mode auto or pinned, not off"),
        ({"priority_weights": ((0, 2.0), (0, 1.0))}, "each once, growing"),
        ({"priority_weights": ((0, 200.0),)}, "weight of priority 0 is 200"),
        ({"priority_weights": ((2**31, 1.0),)}, "no number of 32 bits"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Policy(**wrong)  # type: ignore[arg-type]
