"""Tells the replica of each step: what it was, what drafting did, and which budget it followed."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dspark.engines.vllm.journal import Journal, Outcome
from dspark.engines.vllm.line import NoteSender
from dspark.engines.vllm.notes import StepNote
from dspark.engines.vllm.steps import DraftSteps
from dspark.verifier.budget_cell import BudgetCell

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

log = logging.getLogger(__name__)


class StepTeller:
    """From ``begin`` to ``end`` of each step; worker's thread only.

    Whatever fails in here ends the telling, never the engine.

    Raises:
        OSError: Nobody listens at the path.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._line = NoteSender(path)
        self._journal = Journal(clock)
        self._clock = clock
        self._tells = True

    def begin(self, scheduled: "SchedulerOutput") -> None:
        """A step begins."""
        self._guarded(lambda: self._journal.begin(scheduled))

    def end(
        self,
        outcomes: Sequence[Outcome],
        steps: DraftSteps,
        *,
        cell: BudgetCell | None,
        failure: Exception | None,
    ) -> None:
        """A step has ended, and the next one's drafts are here.

        Args:
            outcomes: Its requests.
            steps: Drafting.
            cell: Where its budgets come from.
            failure: What ended drafting.
        """
        self._guarded(
            lambda: self._line.send(
                self._journal.end(
                    outcomes,
                    note=self._note(steps, cell, failure),
                    waited_s=0.0 if failure else steps.waited_s,
                    asked={} if failure else steps.asked,
                )
            )
        )

    def close(self) -> None:
        """Free the line."""
        self._tells = False
        self._line.close()

    def _note(
        self, steps: DraftSteps, cell: BudgetCell | None, failure: Exception | None
    ) -> StepNote:
        """What is known beside the step itself."""
        desk = steps.desk
        return StepNote(
            batch_tokens=0,
            prompt_tokens=0,
            step_s=0.0,
            turn_s=None,
            entry=steps.entry,
            drafters=0 if failure else desk.num_drafters,
            round_trip_s=steps.desk.round_trip_s,
            round_trips_s=steps.take_round_trips(),
            row_bytes=desk.row_bytes,
            draft_bytes=desk.draft_bytes,
            outcomes=dict(desk.outcomes),
            failure=repr(failure) if failure else "",
            epoch=0 if cell is None else cell.epoch(self._clock()),
            term=0 if cell is None else cell.term,
            unsent=self._line.unsent,
        )

    def _guarded(self, action: Callable[[], None]) -> None:
        if not self._tells:
            return
        try:
            action()
        except Exception:
            self._tells = False
            log.exception("the replica is told no more of what this engine does")
