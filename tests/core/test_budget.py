import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.budget import ALL, OFF, Budget, ContextBucket, verify_all
from dspark.core.ids import Epoch, PoolName, Term


def a_budget(term: int = 1, epoch: int = 1, **rows: tuple[int, ...]) -> Budget:
    buckets = tuple(
        ContextBucket(max_context_tokens=int(limit[1:]), draft_tokens=row)
        for limit, row in (rows or {"c64": (ALL,)}).items()
    )
    return Budget(
        pool=PoolName("verifier"), term=Term(term), epoch=Epoch(epoch), ttl_s=5.0,
        curve_version="v", buckets=buckets,
    )  # fmt: skip


stamps = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(stamps, stamps)
def test_the_term_counts_before_the_epoch(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    assert a_budget(*ours).newer_than(a_budget(*theirs)) == (ours > theirs)


def test_an_older_term_is_refused_however_large_its_epoch() -> None:
    assert not a_budget(1, 999).newer_than(a_budget(2, 1))


def test_anything_is_newer_than_nothing() -> None:
    assert a_budget(0, 0).newer_than(None)


@given(st.lists(stamps, min_size=1, max_size=8))
def test_whatever_the_order_of_arrival_the_newest_stays(sent: list[tuple[int, int]]) -> None:
    held: Budget | None = None
    for stamp in sent:
        budget = a_budget(*stamp)
        if budget.newer_than(held):
            held = budget
    assert held is not None
    assert (held.term, held.epoch) == max(sent)


def test_an_entry_is_found_by_context_and_sessions() -> None:
    budget = a_budget(c64=(ALL, 3), c512=(2, 1, OFF))
    assert budget.entry(sessions=1, mean_context_tokens=64.0) == ALL
    assert budget.entry(sessions=9, mean_context_tokens=10) == 3  # the last one also for more
    assert budget.entry(sessions=2, mean_context_tokens=64.5) == 1
    assert budget.entry(sessions=3, mean_context_tokens=9999) == OFF  # the last covers all above


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"c64": ()}, "at least one entry"),
        ({"c64": (-4,)}, "entry -4"),
        ({"c64": (1,), "c32": (1,)}, "must grow"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    rows: dict[str, tuple[int, ...]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        a_budget(**rows)


def test_a_step_has_at_least_one_session() -> None:
    with pytest.raises(ValueError, match="not 0"):
        a_budget().entry(sessions=0, mean_context_tokens=1)


def test_verify_all_trims_nothing_anywhere() -> None:
    (bucket,) = verify_all()
    assert bucket.draft_tokens == (ALL,)
