"""The pair check as it stands, and whether a rollout may go on."""

from dataclasses import dataclass
from enum import Enum

from dspark_operator import names
from dspark_operator.document import Object, items, number, text
from dspark_operator.rollout import Step, StepKind
from dspark_operator.trouble import failing


class Verdict(Enum):
    """How far the check is."""

    NOT_NEEDED = "nothing is drafted"
    RUNNING = "running"
    FITS = "fits"
    UNFIT = "does not fit"
    BROKEN = "could not be carried out"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCheck:
    """The check of one pair.

    Attributes:
        verdict: How far it is.
        message: One sentence for people.
    """

    verdict: Verdict = Verdict.NOT_NEEDED
    message: str = "the spec has no drafter"

    @property
    def step(self) -> Step | None:
        """What the rollout does instead of rolling; None: it may go on."""
        if self.verdict is Verdict.RUNNING:
            return Step(kind=StepKind.WAIT, reason="CheckingPair", message=self.message)
        if self.verdict is Verdict.UNFIT:
            return Step(kind=StepKind.HOLD, reason="IncompatibleDrafter", message=self.message)
        if self.verdict is Verdict.BROKEN:
            return Step(kind=StepKind.HOLD, reason="PairCheckFailed", message=self.message)
        return None


def read_check(desired: Object | None, live: Object | None, pods: list[Object]) -> PairCheck:
    """Return how far the check is.

    Args:
        desired: The Job that should exist; None: nothing is drafted.
        live: ... as the API server has it, or None.
        pods: The service's pods, of which the Job's tell what did not fit.
    """
    if desired is None:
        return PairCheck()
    name = text(desired, "metadata", "name")
    if live is not None and (number(live, "status", "succeeded") or 0) > 0:
        return PairCheck(verdict=Verdict.FITS, message="the drafter belongs to the target")
    failed = [
        condition
        for condition in items(live, "status", "conditions")
        if text(condition, "type") == "Failed" and text(condition, "status") == "True"
    ]
    said = _last_words(pods, name)
    if said:
        # Told at once, though the Job tries again: a second opinion would still be heard.
        return PairCheck(verdict=Verdict.UNFIT, message=said)
    if failed:
        why = text(failed[0], "message") or text(failed[0], "reason")
        return PairCheck(
            verdict=Verdict.BROKEN,
            message=f"target and drafter could not be compared: {why}; see the pods of Job {name}, "
            "and delete the Job to try again",
        )
    told = f"Job {name} compares target and drafter first"
    stuck = failing(pods).get(names.PAIR_CHECK)
    if stuck is not None:
        told += f", and does not get on: {stuck}"
    return PairCheck(verdict=Verdict.RUNNING, message=told)


def _last_words(pods: list[Object], job: str) -> str:
    """Return what the check itself said when it failed; "" where it never ran."""
    for pod in pods:
        if text(pod, "metadata", "labels", "job-name") != job:
            continue
        for container in items(pod, "status", "containerStatuses"):
            if text(container, "name") != names.PAIR_CHECK:
                continue
            ended = container.get("state")
            told = text(ended, "terminated", "message").strip().splitlines()
            if number(ended, "terminated", "exitCode") == 1 and told:
                return told[-1].removeprefix("dspark: ")
    return ""
