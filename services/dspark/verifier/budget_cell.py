"""The budget in force: swapped as a whole, refused when older, forgotten when expired.

An expired one still fences older terms, but no longer older epochs of its own term: a controller
that restarted without a memory counts from the first epoch again.
"""

import logging
import threading
from collections.abc import Mapping

from dspark.core.budget import ALL, Budget
from dspark.telemetry import metrics

log = logging.getLogger(__name__)


class BudgetCell:
    """Holds the newest budget; written by the controller link, read once a step."""

    def __init__(self, *, curve_version: str) -> None:
        self._curve_version = curve_version
        self._lock = threading.Lock()
        self._budget: Budget | None = None
        self._expires_s = 0.0
        self._received_s = 0.0
        self.refused = 0

    def offer(self, budget: Budget, now_s: float) -> bool:
        """Take ``budget`` unless it is older than the present one or of another curve."""
        with self._lock:
            if self._is_older(budget, now_s):
                self.refused += 1
                return False
            if budget.curve_version and budget.curve_version != self._curve_version:
                self.refused += 1
                log.warning(
                    "budget %d.%d is for curve %s, ours is %s",
                    budget.term, budget.epoch, budget.curve_version, self._curve_version,
                )  # fmt: skip
                return False
            self._budget = budget
            self._received_s = now_s
            self._expires_s = now_s + budget.ttl_s
            return True

    def _is_older(self, budget: Budget, now_s: float) -> bool:
        present = self._budget
        if present is None or budget.newer_than(present):
            return False
        if budget.term != present.term:
            return True
        # A repeat of the same epoch renews it.
        return budget.epoch != present.epoch and now_s <= self._expires_s

    def entry(self, *, sessions: int, mean_context_tokens: float, now_s: float) -> int | None:
        """Return K, ALL or OFF for this step; None when there is no usable budget."""
        with self._lock:
            budget = self._budget
            if budget is None or now_s > self._expires_s:
                return None
            metrics.BUDGET_STALENESS.labels(budget.pool).set(now_s - self._received_s)
            return budget.entry(sessions=sessions, mean_context_tokens=mean_context_tokens)

    def weights(self, now_s: float) -> Mapping[int, float]:
        """Return what drafts count by priority; empty when there is no usable budget."""
        with self._lock:
            budget = self._budget
            return {} if budget is None or now_s > self._expires_s else dict(budget.weights)

    def epoch(self, now_s: float) -> int:
        """Epoch in use; 0 when there is none."""
        with self._lock:
            return 0 if self._budget is None or now_s > self._expires_s else self._budget.epoch

    @property
    def term(self) -> int:
        """Highest term taken, also of an expired budget: lower ones are refused; 0: none."""
        with self._lock:
            return 0 if self._budget is None else self._budget.term


class FixedBudget:
    """Always the same entry: "verify all" for fixed-length speculation without a controller."""

    def __init__(self, entry: int = ALL) -> None:
        self._entry = entry

    def entry(self, *, sessions: int, mean_context_tokens: float, now_s: float) -> int | None:
        """Return the entry."""
        return self._entry

    def weights(self, now_s: float) -> Mapping[int, float]:
        """Every priority counts the same."""
        return {}

    def epoch(self, now_s: float) -> int:
        """There is no epoch."""
        return 0
