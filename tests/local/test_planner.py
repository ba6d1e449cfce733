import threading
from dataclasses import replace

from dspark.core.budget import ALL, Budget
from dspark.core.fleet import LoadReport, Role
from dspark.local.planner import LocalPlanner
from tests.fleet_examples import a_curve, a_replica, a_report

DEAR = a_curve({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, version="dear")
FREE = a_curve({1: 0.1, 3: 0.1, 6: 0.11}, version="free")


class Told:
    """Takes budgets."""

    def __init__(self, count: int) -> None:
        self._left = threading.Semaphore(0)
        self._count = count
        self.budgets: list[Budget] = []

    def __call__(self, budget: Budget) -> None:
        self.budgets.append(budget)
        self._left.release()

    def wait(self) -> Budget:
        for _ in range(self._count):
            assert self._left.acquire(timeout=20.0)
        return self.budgets[-1]


def a_busy_report() -> LoadReport:
    """Two sessions whose second and third drafts hardly ever survive."""
    return replace(
        a_report("v", active=2, survivals=[(0.9, 0.05, 0.01)] * 40, draft_round_s=0.1),
        steps=30,
        batch_tokens=120,
        step_s=30 * 4.0,
        session_steps=60,
        mean_context_tokens=64.0,
    )


def test_budgets_come_of_the_reports_by_the_controller_s_plan() -> None:
    told = Told(2)
    planner = LocalPlanner(
        [
            a_replica("v", curve=DEAR),
            a_replica("d", Role.DRAFTER, curve=FREE),
        ],
        report=a_busy_report,
        offer=told,
        max_sessions=4,
        max_cohorts=1,
    )
    planner.start()
    try:
        budget = told.wait()
    finally:
        planner.stop()
    assert budget.curve_version == "dear"
    # Theta: 2 / 2 s off; 3.8 / 4.1 s for one draft each; all six would be 3.92 / 8.1 s.
    assert budget.entry(sessions=2, mean_context_tokens=64.0) != ALL
    (verifier, _) = planner.fleet().members
    assert verifier.load is not None
    assert verifier.load.steps == 30


def test_a_report_that_fails_ends_neither_the_planner_nor_the_engine() -> None:
    told, calls = Told(1), iter(range(1000))

    def report() -> LoadReport:
        if next(calls) == 0:
            raise RuntimeError("once")
        return a_busy_report()

    planner = LocalPlanner(
        [a_replica("v", curve=DEAR)], report=report, offer=told, max_sessions=4, max_cohorts=1
    )
    planner.start()
    try:
        told.wait()
    finally:
        planner.stop()
