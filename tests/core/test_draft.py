import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.draft import DraftBlock, DraftStatus, survivals
from dspark.core.ids import SessionId


@given(st.lists(st.floats(0, 1), max_size=8))
def test_survivals_are_running_products(confidences: list[float]) -> None:
    result = survivals(confidences)
    assert len(result) == len(confidences)
    for k, survival in enumerate(result, 1):
        assert survival == pytest.approx(math.prod(confidences[:k]))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_survivals_never_rise(confidences: list[float]) -> None:
    result = (1.0, *survivals(confidences))
    assert all(a >= b for a, b in pairwise(result))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_a_survival_does_not_see_later_confidences(
    confidences: list[float], changed: float
) -> None:
    assert survivals([*confidences[:-1], changed])[:-1] == survivals(confidences)[:-1]


def test_every_drafted_token_has_a_confidence() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 confidences"):
        DraftBlock(
            session=SessionId(1), base_length=3, status=DraftStatus.OK,
            tokens=(1, 2), confidences=(0.5,),
        )  # fmt: skip
