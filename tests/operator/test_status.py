"""Status: every condition from what was seen, and nothing assumed."""

from dataclasses import replace
from typing import Any

import pytest

from dspark_operator.conditions import Condition, merge
from dspark_operator.crd import conditions_schema
from dspark_operator.fleet import FleetReport, UnitReport
from dspark_operator.observed import Observed
from dspark_operator.rollout import Step, StepKind
from dspark_operator.status import CONDITIONS, broken_status, conditions_of, status_of
from tests.operator.cases import service, small

NOW = "2026-01-01T00:00:00Z"
SERVICE = service(small(), generation=3)
NOTHING = Step(kind=StepKind.NOTHING, reason="UpToDate", message="everything is applied")
VERIFIER = UnitReport(
    ready=1, wanted=2, profiled=1, connected_drafters=1, budget="trims: x", drafting=True
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
    routes=FleetReport(units={"verifier-big": UnitReport(ready=1)}),
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


def test_a_number_of_verifiers_that_cannot_be_asked_for_is_told() -> None:
    unasked = replace(HEALTHY, sizes_problem="verifier-big: timed out")
    assert _told(unasked, "ScalingReady") == ("Unknown", "ControllerUnknown")
    short = replace(unasked, unschedulable={"verifier-big": "no node"})
    assert _told(short, "ScalingReady") == ("False", "InsufficientCapacity")


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
    off = replace(VERIFIER, drafting=False)
    both = replace(HEALTHY, fleet=_fleet(verifier_big=off, drafter_small=UnitReport(ready=1)))
    assert _told(both, "SpeculationActive") == ("False", "BudgetOff")


def test_a_missing_profile_and_a_missing_budget_are_named() -> None:
    bare = replace(VERIFIER, profiled=0, budget=None, drafting=None)
    seen = replace(HEALTHY, fleet=_fleet(verifier_big=bare, drafter_small=UnitReport(ready=1)))
    assert _told(seen, "ProfileReady") == ("False", "ProfileMissing")
    assert _told(seen, "BudgetPublished") == ("False", "MetricsMissing")


def test_a_kind_of_node_without_capacity_is_named_and_the_rest_serves() -> None:
    seen = replace(HEALTHY, unschedulable={"drafter-small": "0/3 nodes are available"})
    assert _told(seen, "ScalingReady") == ("False", "InsufficientCapacity")
    assert _told(seen, "Ready") == ("True", "FirstTokenSeen")


def test_pods_that_do_not_come_up_are_told_where_they_are_missed() -> None:
    pulling = "container engine: ImagePullBackOff: no such image"
    none = replace(
        HEALTHY, routes=_fleet(), fleet=_fleet(), failing={"verifier-big": pulling, "gateway": "x"}
    )
    told = {c.type: c for c in conditions_of(SERVICE, none)}
    assert pulling in told["VerifierReady"].message
    assert pulling in told["Ready"].message
    gone = replace(none, gateway={"status": {}})
    assert _told(gone, "RouterReady") == ("False", "PodsFailing")


def test_one_verifier_of_two_serves_and_none_does_not() -> None:
    spec = small()
    spec["pools"][0]["groups"][0]["replicas"] = {"min": 2, "max": 2}
    two = service(spec)
    told = {c.type: c for c in conditions_of(two, HEALTHY)}
    assert (told["Ready"].status, told["VerifierReady"].reason) == ("True", "TooFewReplicas")
    none = replace(HEALTHY, routes=_fleet(), fleet=_fleet(verifier_big=UnitReport()))
    told = {c.type: c for c in conditions_of(two, none)}
    assert (told["Ready"].status, told["Ready"].reason) == ("False", "NoVerifierReady")
    assert "verifier-big has 0 of 2" in told["VerifierReady"].message


def test_a_lost_controller_leaves_the_service_ready_and_everything_it_knows_unknown() -> None:
    """The gateway goes on with the last fleet that it saw; nobody takes that for the present."""
    lost = replace(HEALTHY, fleet=None, fleet_problem="timed out")
    told = {c.type: (c.status, c.reason) for c in conditions_of(SERVICE, lost)}
    assert told["Ready"] == ("True", "FirstTokenSeen")
    for kind in ("DrafterReady", "VerifierReady", "ProfileReady", "BudgetPublished",
                 "SpeculationActive"):  # fmt: skip
        assert told[kind] == ("Unknown", "FleetUnknown"), kind
    pools: Any = status_of(SERVICE, lost, {}, timestamp=NOW)["pools"]
    assert pools[0]["readyReplicas"] == 1, "as the gateway has it"
    silent = replace(lost, routes=None, routes_problem="connection refused")
    assert _told(silent, "Ready") == ("False", "RoutesUnknown")


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
