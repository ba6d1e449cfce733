"""The status of a VerificationPolicy: who wins, and until when."""

from typing import Any

import pytest

from dspark.core.policy import Policy
from dspark_operator.claims import claims
from dspark_operator.policy_status import Outcome, policy_status
from dspark_operator.verification import Act, Held, Layer
from tests.operator.cases import policy_manifest, service, small
from tests.operator.test_verification import BRIEF_CANARY, CANARY, OLD, OURS, OVERRIDE

NOW = "2026-01-01T00:00:00Z"
TRIED = Layer(
    policy=Policy(cap=2, canary_share=0.1),
    author="dspark-operator",
    reason="VerificationPolicy try",
)


def test_without_its_service_a_manifest_is_in_force_nowhere() -> None:
    told = _told(policy_manifest(), None, {})
    assert set(told.values()) == {("False", "ServiceMissing")}


def _told(
    document: dict[str, Any], of: Any, outcomes: dict[str, Outcome]
) -> dict[str, tuple[str, str]]:
    (claim,) = claims([document], of)
    status: Any = policy_status(claim, outcomes, {}, timestamp=NOW)
    assert status["observedGeneration"] == 3
    assert all(c["observedGeneration"] == 3 for c in status["conditions"])
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


@pytest.mark.parametrize(
    ("outcome", "ready", "in_force"),
    [
        (Outcome(held=Held(version=1, layers=(OURS,))), ("True", "Applied"), ("True", "InForce")),
        (
            Outcome(held=Held(version=2, layers=(OURS, OVERRIDE))),
            ("True", "Applied"),
            ("False", "Overridden"),
        ),
        (
            Outcome(act=Act.WAIT, held=Held(version=2, layers=(OVERRIDE,))),
            ("False", "WaitingForOverride"),
            ("False", "Overridden"),
        ),
        (
            Outcome(held=Held(version=2, layers=(OURS, BRIEF_CANARY))),
            ("True", "Applied"),
            ("True", "Canary"),
        ),
        (
            Outcome(held=Held(version=2, layers=(OURS, OVERRIDE, CANARY))),
            ("True", "Applied"),
            ("False", "Overridden"),
        ),
        (
            Outcome(act=Act.WAIT, held=Held(version=2, layers=(OLD, BRIEF_CANARY))),
            ("False", "WaitingForOverride"),
            ("False", "WaitingForOverride"),
        ),
        (
            Outcome(problem="timed out"),
            ("Unknown", "ControllerUnknown"),
            ("Unknown", "ControllerUnknown"),
        ),
    ],
)
def test_status_says_who_wins(
    outcome: Outcome, ready: tuple[str, str], in_force: tuple[str, str]
) -> None:
    told = _told(policy_manifest(mode="Off"), service(small()), {"verifier-big": outcome})
    assert told == {"Accepted": ("True", "Valid"), "Ready": ready, "InForce": in_force}


@pytest.mark.parametrize(
    ("outcome", "ready", "in_force"),
    [
        (
            Outcome(held=Held(version=2, layers=(OURS, TRIED)), canaries=1),
            ("True", "Applied"),
            ("True", "InForce"),
        ),
        (
            Outcome(held=Held(version=2, layers=(OURS, TRIED)), canaries=0),
            ("True", "Applied"),
            ("False", "NoCanary"),
        ),
        (
            Outcome(act=Act.WAIT, held=Held(version=2, layers=(OURS, OVERRIDE)), canaries=0),
            ("False", "WaitingForOverride"),
            ("False", "Overridden"),
        ),
        (
            Outcome(act=Act.WAIT, held=Held(version=2, layers=(OURS, BRIEF_CANARY)), canaries=1),
            ("False", "WaitingForOverride"),
            ("False", "Overridden"),
        ),
        (
            Outcome(problem="timed out"),
            ("Unknown", "ControllerUnknown"),
            ("Unknown", "ControllerUnknown"),
        ),
    ],
)
def test_the_status_of_one_for_a_share_says_who_follows_it(
    outcome: Outcome, ready: tuple[str, str], in_force: tuple[str, str]
) -> None:
    share = policy_manifest("try", cap=2, canaryShare=0.1)
    told = _told(share, service(small()), {"verifier-big": outcome})
    assert told == {"Accepted": ("True", "Valid"), "Ready": ready, "InForce": in_force}


def test_an_override_is_told_with_its_author_and_its_end() -> None:
    (claim,) = claims([policy_manifest(mode="Off")], service(small()))
    held = Held(version=5, layers=(OURS, OVERRIDE))
    status: Any = policy_status(claim, {"verifier-big": Outcome(held=held)}, {}, timestamp=NOW)
    (in_force,) = [c for c in status["conditions"] if c["type"] == "InForce"]
    assert in_force["message"] == (
        "verifier-big: ada set auto, cap 4 until 2027-01-15T08:00:00Z: a peak"
    )
    assert status["pools"] == [
        {
            "name": "verifier-big",
            "policy": "auto, cap 4",
            "version": 5,
            "overriddenBy": "ada",
            "overriddenUntil": "2027-01-15T08:00:00Z",
        }
    ]
    again: Any = policy_status(
        claim, {"verifier-big": Outcome(held=held)}, status, timestamp="2026-02-02T00:00:00Z"
    )
    assert again == status, "nothing changed, so nothing is written"
