import pytest

from dspark.core.budget import ALL, OFF, Budget, ContextBucket
from dspark.core.ids import Epoch, PoolName, Term
from dspark.verifier.budget_cell import BudgetCell, FixedBudget


def a_budget(
    entry: int, *, term: int = 1, epoch: int = 1, curve: str = "c", ttl_s: float = 5.0
) -> Budget:
    return Budget(
        pool=PoolName("v"),
        term=Term(term),
        epoch=Epoch(epoch),
        ttl_s=ttl_s,
        curve_version=curve,
        buckets=(ContextBucket(max_context_tokens=100, draft_tokens=(entry,)),),
    )


def entry(cell: BudgetCell, now_s: float) -> int | None:
    return cell.entry(sessions=1, mean_context_tokens=10.0, now_s=now_s)


def test_an_empty_cell_has_no_budget() -> None:
    cell = BudgetCell(curve_version="c")
    assert entry(cell, 0.0) is None
    assert cell.epoch(0.0) == 0


def test_a_newer_epoch_or_term_replaces_the_budget() -> None:
    cell = BudgetCell(curve_version="c")
    for number, budget in enumerate(
        [a_budget(1), a_budget(2, epoch=2), a_budget(3, term=2, epoch=1)], 1
    ):
        assert cell.offer(budget, 0.0)
        assert entry(cell, 0.0) == number
    assert cell.refused == 0


@pytest.mark.parametrize("older", [a_budget(9, term=1, epoch=9), a_budget(9, term=2, epoch=3)])
def test_an_older_term_or_epoch_is_refused(older: Budget) -> None:
    cell = BudgetCell(curve_version="c")
    cell.offer(a_budget(1, term=2, epoch=4), 0.0)
    assert not cell.offer(older, 1.0)
    assert entry(cell, 1.0) == 1
    assert cell.refused == 1


def test_a_budget_of_another_curve_is_refused_even_when_newer() -> None:
    cell = BudgetCell(curve_version="c")
    cell.offer(a_budget(1), 0.0)
    assert not cell.offer(a_budget(2, epoch=2, curve="d"), 0.0)
    assert entry(cell, 0.0) == 1
    assert cell.refused == 1


def test_a_budget_that_needs_no_curve_fits_every_replica() -> None:
    assert BudgetCell(curve_version="c").offer(a_budget(ALL, curve=""), 0.0)


def test_a_budget_expires_by_itself() -> None:
    cell = BudgetCell(curve_version="c")
    cell.offer(a_budget(1, epoch=7), 10.0)
    assert (entry(cell, 15.0), cell.epoch(15.0)) == (1, 7)
    assert (entry(cell, 15.1), cell.epoch(15.1)) == (None, 0)


def test_the_same_epoch_again_renews_it() -> None:
    cell = BudgetCell(curve_version="c")
    cell.offer(a_budget(1), 0.0)
    assert cell.offer(a_budget(1), 4.0)
    assert entry(cell, 8.0) == 1
    assert cell.refused == 0


def test_after_expiry_a_controller_of_the_same_term_may_count_anew() -> None:
    cell = BudgetCell(curve_version="c")
    cell.offer(a_budget(1, epoch=500), 0.0)
    assert not cell.offer(a_budget(2, epoch=1), 5.0)
    assert cell.offer(a_budget(2, epoch=1), 5.1)
    assert entry(cell, 6.0) == 2


def test_after_expiry_an_older_term_is_still_refused() -> None:
    cell = BudgetCell(curve_version="c")
    cell.offer(a_budget(1, term=2), 0.0)
    assert not cell.offer(a_budget(2, term=1, epoch=900), 99.0)


def test_the_entry_is_that_of_the_step_s_load() -> None:
    cell = BudgetCell(curve_version="c")
    table = Budget(
        pool=PoolName("v"),
        term=Term(1),
        epoch=Epoch(1),
        ttl_s=5.0,
        curve_version="c",
        buckets=(
            ContextBucket(max_context_tokens=100, draft_tokens=(ALL, 6, OFF)),
            ContextBucket(max_context_tokens=200, draft_tokens=(4,)),
        ),
    )
    cell.offer(table, 0.0)

    def at(sessions: int, context: float) -> int | None:
        return cell.entry(sessions=sessions, mean_context_tokens=context, now_s=0.0)

    assert [at(1, 50), at(2, 50), at(3, 50), at(9, 50)] == [ALL, 6, OFF, OFF]
    assert [at(1, 101), at(5, 999)] == [4, 4]


def test_a_fixed_budget_is_always_the_same() -> None:
    fixed = FixedBudget(3)
    assert fixed.entry(sessions=9, mean_context_tokens=1e6, now_s=1e9) == 3
    assert fixed.epoch(0.0) == 0
