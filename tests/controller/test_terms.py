from dataclasses import replace
from pathlib import Path

import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.loop import Controller
from dspark.controller.open_store import open_store
from dspark.controller.registry import ReportOutcome
from dspark.controller.store import MemoryStore
from dspark.core.ids import Term
from tests.fleet_examples import a_replica, a_report


def test_a_term_goes_above_the_highest_that_a_replica_holds() -> None:
    controller = Controller(ControllerSettings(), MemoryStore())
    controller.register(a_replica("v0"), 0.0)
    controller.tick(0.0, unix_s=0.0)
    controller.report(replace(a_report("v0"), budget_term=Term(9)), 0.0)
    assert controller.term == 10
    (budget,) = controller.tick(0.1, unix_s=0.0).budgets(a_replica("v0").pool)
    assert budget.term == 10, "sent at once, not with the next renewal"
    controller.report(replace(a_report("v0"), budget_term=Term(10)), 0.2)
    assert controller.term == 10


def test_a_term_that_no_controller_can_have_reached_is_absurd() -> None:
    controller = Controller(ControllerSettings(), MemoryStore())
    controller.register(a_replica("v0"), 0.0)
    report = replace(a_report("v0"), budget_term=Term(2**60))
    assert controller.report(report, 0.0) is ReportOutcome.ABSURD
    assert controller.term == 1


@pytest.mark.parametrize("where", ["memory", "c.sqlite"])
def test_stores_give_terms_above_what_they_are_told(where: str, tmp_path: Path) -> None:
    store = open_store("memory" if where == "memory" else str(tmp_path / where))
    first = store.next_term()
    assert store.next_term(above=first + 50) == first + 51
    assert store.next_term() == first + 52
    store.close()


def test_a_standby_has_no_term_until_it_takes_over() -> None:
    store = MemoryStore()
    standby = Controller(ControllerSettings(), store, leading=False)
    assert not standby.leading
    Controller(ControllerSettings(), store)
    standby.take_over()
    assert (standby.leading, standby.term) == (True, 2)
