"""Status: every condition from what was seen, and nothing assumed."""

import json
from dataclasses import replace
from typing import Any

import pytest

from dspark_operator.conditions import Condition, merge
from dspark_operator.crd import conditions_schema
from dspark_operator.fleet import FleetReport, UnitReport, parse_fleet
from dspark_operator.rollout import Step, StepKind
from dspark_operator.status import CONDITIONS, Observed, broken_status, conditions_of, status_of
from tests.operator.cases import service, small

NOW = "2026-01-01T00:00:00Z"
SERVICE = service(small(), generation=3)
NOTHING = Step(kind=StepKind.NOTHING, reason="UpToDate", message="everything is applied")
VERIFIER = UnitReport(
    ready=1, wanted=2, profiled=1, connected_drafters=1, budget_epoch=5, budget_reason="trims: x"
)
RAY: dict[str, Any] = {
    "metadata": {"generation": 4},
    "status": {
        "observedGeneration": 4,
        "activeServiceStatus": {
            "applicationStatuses": {
                "dspark-verifier-big": {"status": "RUNNING"},
                "dspark-drafter-small": {"status": "RUNNING"},
            }
        },
    },
}
HEALTHY = Observed(
    step=NOTHING,
    ray_service=RAY,
    gateway={"status": {"availableReplicas": 1}},
    fleet=FleetReport(units={"verifier-big": VERIFIER, "drafter-small": UnitReport(ready=1)}),
    first_token=True,
)


def _told(seen: Observed, kind: str) -> tuple[str, str]:
    found = {c.type: c for c in conditions_of(SERVICE, seen)}[kind]
    return found.status, found.reason


def _fleet(**units: UnitReport) -> FleetReport:
    return FleetReport(units={name.replace("_", "-"): unit for name, unit in units.items()})


def test_a_healthy_service_says_so_in_every_condition() -> None:
    truths = {c.type: c.status for c in conditions_of(SERVICE, HEALTHY)}
    assert list(truths) == list(CONDITIONS)
    abnormal = {"Reconciling": "False", "Stalled": "False"}
    assert truths == dict.fromkeys(CONDITIONS, "True") | abnormal


def test_every_condition_is_there_on_the_first_visit() -> None:
    creating = Step(kind=StepKind.CREATE, reason="Creating", message="new")
    first = Observed(step=creating, fleet_problem="no gateway")
    assert [c.type for c in conditions_of(SERVICE, first)] == list(CONDITIONS)
    assert _told(first, "Ready") == ("False", "Creating")
    assert _told(first, "VerifierReady") == ("Unknown", "FleetUnknown")
    assert _told(first, "Reconciling") == ("True", "Creating")


def test_ready_needs_a_first_token() -> None:
    silent = replace(HEALTHY, first_token=None)
    assert _told(silent, "Ready") == ("False", "NoFirstToken")
    assert _told(silent.with_first_token("HTTP Error 503"), "Ready") == ("False", "NoFirstToken")
    assert _told(silent.with_first_token(""), "Ready") == ("True", "FirstTokenSeen")


def test_decoding_without_drafts_is_ready_and_says_so() -> None:
    seen = replace(HEALTHY, fleet=_fleet(verifier_big=VERIFIER))
    assert _told(seen, "Ready") == ("True", "FirstTokenSeen")
    assert _told(seen, "SpeculationActive") == ("False", "NoDrafterReady")
    off = replace(VERIFIER, budget_off=True)
    both = replace(HEALTHY, fleet=_fleet(verifier_big=off, drafter_small=UnitReport(ready=1)))
    assert _told(both, "SpeculationActive") == ("False", "BudgetOff")


def test_a_missing_profile_and_a_missing_budget_are_named() -> None:
    bare = replace(VERIFIER, profiled=0, budget_epoch=None)
    seen = replace(HEALTHY, fleet=_fleet(verifier_big=bare, drafter_small=UnitReport(ready=1)))
    assert _told(seen, "ProfileReady") == ("False", "ProfileMissing")
    assert _told(seen, "BudgetPublished") == ("False", "MetricsMissing")


def test_a_kind_of_node_without_capacity_is_named_and_the_rest_serves() -> None:
    seen = replace(HEALTHY, unschedulable={"drafter-small": "0/3 nodes are available"})
    assert _told(seen, "ScalingReady") == ("False", "InsufficientCapacity")
    assert _told(seen, "Ready") == ("True", "FirstTokenSeen")


def test_one_verifier_of_two_serves_and_none_does_not() -> None:
    spec = small()
    spec["pools"][0]["groups"][0]["replicas"] = {"min": 2, "max": 2}
    two = service(spec)
    told = {c.type: c for c in conditions_of(two, HEALTHY)}
    assert (told["Ready"].status, told["VerifierReady"].reason) == ("True", "TooFewReplicas")
    none = replace(HEALTHY, fleet=_fleet(verifier_big=UnitReport()))
    told = {c.type: c for c in conditions_of(two, none)}
    assert (told["Ready"].status, told["Ready"].reason) == ("False", "NoVerifierReady")
    assert "verifier-big has 0 of 2" in told["Ready"].message


def test_a_held_edit_stalls_and_is_not_reconciled() -> None:
    hold = Step(kind=StepKind.HOLD, reason="NewClusterNeeded", message="images")
    seen = replace(HEALTHY, step=hold)
    assert _told(seen, "Stalled") == ("True", "NewClusterNeeded")
    assert _told(seen, "Reconciling") == ("False", "NewClusterNeeded")
    assert _told(seen, "Ready") == ("True", "FirstTokenSeen")


def test_replicas_of_an_old_revision_are_not_updated() -> None:
    before = status_of(SERVICE, HEALTHY, {}, timestamp=NOW)
    assert before["pools"][0] == {  # type: ignore[index,call-overload]
        "name": "verifier", "role": "verifier",
        "replicas": 2, "readyReplicas": 1, "updatedReplicas": 1,
    }  # fmt: skip
    rolling = Step(kind=StepKind.IN_PLACE, reason="UpdatingInPlace", message="x")
    unseen = {**RAY, "metadata": {"generation": 5}}
    for seen in (replace(HEALTHY, step=rolling), replace(HEALTHY, ray_service=unseen)):
        pools: Any = status_of(SERVICE, seen, {}, timestamp=NOW)["pools"]
        assert (pools[0]["readyReplicas"], pools[0]["updatedReplicas"]) == (1, 0)


def test_a_time_changes_only_with_a_status() -> None:
    first = merge([], [Condition(type="Ready", status="False", reason="A", message="a")],
                  generation=1, timestamp="t1")  # fmt: skip
    same = merge(first, [Condition(type="Ready", status="False", reason="B", message="b")],  # type: ignore[arg-type]
                 generation=2, timestamp="t2")  # fmt: skip
    assert (same[0]["lastTransitionTime"], same[0]["reason"]) == ("t1", "B")  # type: ignore[index,call-overload]
    other = merge(same, [Condition(type="Ready", status="True", reason="B", message="b")],  # type: ignore[arg-type]
                  generation=2, timestamp="t3")  # fmt: skip
    assert other[0]["lastTransitionTime"] == "t3"  # type: ignore[index,call-overload]


def test_a_broken_spec_keeps_what_is_known_and_names_the_field() -> None:
    healthy = status_of(SERVICE, HEALTHY, {}, timestamp=NOW)
    broken = broken_status(4, "InvalidSpec", "spec.model: x", healthy, timestamp=NOW)
    conditions: Any = broken["conditions"]
    told = {c["type"]: (c["status"], c["reason"]) for c in conditions}
    assert told["Stalled"] == ("True", "InvalidSpec")
    assert told["Ready"] == ("False", "InvalidSpec")
    assert told["VerifierReady"] == ("True", "Available")
    assert set(told) == set(CONDITIONS)
    assert broken["observedGeneration"] == 4
    fresh: Any = broken_status(1, "InvalidSpec", "x", {}, timestamp=NOW)["conditions"]
    assert {c["type"] for c in fresh} == set(CONDITIONS)


def test_conditions_have_the_form_that_the_crd_asks_for() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    status = status_of(SERVICE, HEALTHY, {}, timestamp=NOW)
    jsonschema.validate(status["conditions"], conditions_schema())


def test_the_fleet_is_read_as_the_gateway_tells_it() -> None:
    fleet = {
        "term": 1,
        "members": [
            {
                "replica": {
                    "pool": "verifier-big", "role": "verifier", "state": "ready",
                    "curve": {"version": "v", "points": [{"step_s": 0.01}]},
                },
                "load": {"connected_drafters": 2},
            },
            {"replica": {"pool": "verifier-big", "state": "draining", "curve": None}, "load": None},
        ],
        "pools": [
            {
                "name": "verifier-big", "wanted_replicas": 3,
                "budget": {"epoch": 9, "reason": "off: no gain", "buckets": [
                    {"max_context_tokens": 512, "draft_tokens": [-2, -2]}]},
            }
        ],
    }  # fmt: skip
    report = parse_fleet(json.dumps(fleet)).unit("verifier-big")
    assert report == UnitReport(
        ready=1, wanted=3, profiled=1, connected_drafters=2,
        budget_epoch=9, budget_reason="off: no gain", budget_off=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="not a fleet"):
        parse_fleet("{}")
