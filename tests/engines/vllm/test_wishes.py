import pytest

from dspark.engines.vllm.wishes import NONE, Wishes, wishes_of


def test_what_a_pool_tells_arrives() -> None:
    wishes = Wishes(session=7, speculate=False, max_draft_tokens=3, priority=-2, trial=True)
    assert wishes_of({"other": 1, **wishes.extra_args()}) == wishes


def test_requests_of_others_have_no_wishes() -> None:
    assert wishes_of(None) == wishes_of({}) == wishes_of({"other": 1}) == NONE


@pytest.mark.parametrize("given", [3, {"sesion": 1}])
def test_what_is_no_wish_is_named(given: object) -> None:
    with pytest.raises(ValueError, match=r"extra_args\.dspark"):
        wishes_of({"dspark": given})
