"""The fixture by which a test tells the table what it measured."""

from collections.abc import Callable

import pytest
import torch

from tests.lossless.evidence import Evidence

Tell = Callable[[str, object], None]


class Table:
    """Where evidence is shown; ``report.py`` reads it from the tests' properties."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def holds(self, evidence: Evidence) -> None:
        """Show a statistic that a correct system passes."""
        self._show(evidence.n, evidence.statistic, evidence.p_value)
        assert evidence.holds, f"{evidence.statistic}: p = {evidence.p_value:.2g}"

    def fails(self, evidence: Evidence) -> None:
        """Show the same statistic of a system that is wrong on purpose: it must be caught."""
        self._show(evidence.n, evidence.statistic, evidence.p_value)
        assert not evidence.holds, f"not caught: {evidence.statistic}: p = {evidence.p_value:.2g}"

    def exact(self, n: int, statistic: str) -> None:
        """Show that ``n`` things were compared exactly, after they were."""
        self._show(n, statistic, None)

    def _show(self, n: int, statistic: str, p_value: float | None) -> None:
        self._tell("evidence", (n, statistic, p_value))


@pytest.fixture
def table(record_property: Tell) -> Table:
    return Table(record_property)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> None:
    torch.set_num_threads(1)
