"""Counts: what autoscalers are told."""

from dspark_operator.counts import ready_verifiers, verifier_pods
from dspark_operator.fleet import FleetReport, UnitReport
from dspark_operator.observed import Observed
from dspark_operator.rollout import Step, StepKind
from tests.operator.cases import ray_service, service, small

STEP = Step(kind=StepKind.NOTHING, reason="UpToDate", message="")


def test_ready_verifiers_are_counted_over_all_groups_and_never_assumed_to_be_gone() -> None:
    spec = small()
    groups = spec["pools"][0]["groups"]
    groups.append({**groups[0], "name": "more"})
    units = {
        "verifier-big": UnitReport(ready=2),
        "verifier-more": UnitReport(ready=1),
        "drafter-small": UnitReport(ready=7),
    }
    seen = Observed(step=STEP, fleet=FleetReport(units=units))
    assert ready_verifiers(service(spec), seen, {}) == 3
    unknown = Observed(step=STEP, fleet_problem="timed out")
    assert ready_verifiers(service(spec), unknown, {"replicas": 3}) == 3
    assert ready_verifiers(service(spec), unknown, {}) == 0


def test_the_selector_finds_the_verifiers_pods_and_no_others() -> None:
    chosen = dict(pair.split("=") for pair in verifier_pods(service(small())).split(","))
    found = [
        group["groupName"]
        for group in ray_service(small())["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        if chosen.items() <= group["template"]["metadata"]["labels"].items()
    ]
    assert found == ["verifier-big"]
