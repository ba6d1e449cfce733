from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.sampling import GREEDY_TEMPERATURE, Sampling


@given(
    st.floats(0, 2),
    st.integers(0, 2**63 - 1),
    st.integers(0, 9),
    st.integers(0, 100),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
)
def test_every_value_in_range_is_taken(
    temperature: float, seed: int, choice: int, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = Sampling(
        temperature=temperature, seed=seed, choice=choice, top_k=top_k, top_p=top_p, min_p=min_p
    )
    assert sampling.greedy == (temperature < GREEDY_TEMPERATURE)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"temperature": 2.1}, {"temperature": float("nan")},
        {"seed": -1}, {"seed": 2**63}, {"choice": -1}, {"top_k": -1},
        {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 1.1},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


def test_the_default_is_greedy() -> None:
    assert Sampling().greedy
