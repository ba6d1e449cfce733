"""Rollout: which step follows, and that no step has the GPUs twice."""

import copy
import json
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspark_operator.rollout import (
    Step,
    StepKind,
    cluster_gpus,
    count_patch,
    in_place,
    next_step,
)
from dspark_operator.spec.service import UpdateStrategy
from tests.operator.cases import ray_service, service, small, specs

NONE = UpdateStrategy()
Document = dict[str, Any]


def created(spec: Document) -> Document:
    """The RayService of a spec, as it lives after its creation."""
    step = next_step(ray_service(spec), None, NONE)
    assert step.kind is StepKind.CREATE
    return settled(step, name="llm-a")


def settled(step: Step, *, name: str) -> Document:
    """What lives once KubeRay has done what a step asks for."""
    assert step.manifest is not None
    live = copy.deepcopy(step.manifest)
    live["metadata"]["generation"] = 1
    live["status"] = {
        "observedGeneration": 1,
        "activeServiceStatus": {"rayClusterName": name},
        "pendingServiceStatus": {},
    }
    return live


def strategy(spec: Document) -> UpdateStrategy:
    return service(spec).spec.update_strategy


def edited(spec: Document, live: Document) -> Step:
    return next_step(ray_service(spec), live, strategy(spec))


def replaces_cluster(old: Document, new: Document) -> bool:
    """KubeRay's rule, written down a second time: does this edit make a new cluster?"""

    def muted(ray: Document, groups: int) -> str:
        cluster = copy.deepcopy(ray["spec"]["rayClusterConfig"])
        cluster["workerGroupSpecs"] = cluster["workerGroupSpecs"][:groups]
        for group in [*cluster["workerGroupSpecs"], cluster["headGroupSpec"]]:
            for key in ("replicas", "minReplicas", "maxReplicas", "scaleStrategy"):
                group.pop(key, None)
            group["template"]["spec"].pop("tolerations", None)
        return json.dumps(cluster, sort_keys=True)

    known = len(old["spec"]["rayClusterConfig"]["workerGroupSpecs"])
    return muted(old, known) != muted(new, known)


def group_of(spec: Document, pool: int = 0) -> Document:
    return spec["pools"][pool]["groups"][0]


SURGE = {"type": "NewClusterWithIncrementalUpgrade",
         "surge": {"maxPercent": 50, "gatewayClassName": "class"}}  # fmt: skip


def test_nothing_happens_without_an_edit() -> None:
    assert edited(small(), created(small())).kind is StepKind.NOTHING


def test_a_deleted_ray_service_is_made_again_once_its_pods_are_gone() -> None:
    desired = ray_service(small())
    assert next_step(desired, None, NONE, pods_left=2).reason == "OldPodsEnding"
    assert next_step(desired, None, NONE).kind is StepKind.CREATE


def test_a_count_an_engine_setting_and_a_toleration_go_out_in_place() -> None:
    live = created(small())
    for change in (
        {"replicas": {"min": 2, "max": 3}},
        {"engine": {"maxSessions": 3}},
        {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
    ):
        spec = small()
        group_of(spec).update(change)
        step = edited(spec, live)
        assert step.kind is StepKind.IN_PLACE, change
        assert step.manifest is not None
        assert step.manifest["spec"]["upgradeStrategy"] == {"type": "None"}
        assert not replaces_cluster(live, step.manifest)


def test_an_image_is_held_back_where_upgrades_are_not_allowed() -> None:
    spec = small(images={"engine": "dspark-engine:2.0.0"})
    step = edited(spec, created(small()))
    assert (step.kind, step.reason) == (StepKind.HOLD, "NewClusterNeeded")
    assert step.manifest is None
    assert "worker group verifier-big" in step.message


def test_an_image_takes_over_within_the_surge_where_that_is_allowed() -> None:
    spec = small(images={"engine": "dspark-engine:2.0.0"}, updateStrategy=SURGE)
    live = created(small())
    step = edited(spec, live)
    assert step.kind is StepKind.NEW_CLUSTER
    assert step.manifest is not None
    groups = step.manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [(g["replicas"], g["minReplicas"]) for g in groups] == [(0, 0), (0, 0)]
    options = step.manifest["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]
    assert options["maxSurgePercent"] == 50
    assert cluster_gpus(step.manifest, percent=50) <= cluster_gpus(live) // 2


def test_a_surge_that_one_replica_does_not_fit_is_refused() -> None:
    surge = copy.deepcopy(SURGE)
    surge["surge"]["maxPercent"] = 10
    spec = small(images={"engine": "dspark-engine:2.0.0"}, updateStrategy=surge)
    step = edited(spec, created(small()))
    assert (step.kind, step.reason) == (StepKind.HOLD, "SurgeTooSmall")


def test_an_upgrade_is_waited_for_and_then_settles_in_place() -> None:
    spec = small(images={"engine": "dspark-engine:2.0.0"}, updateStrategy=SURGE)
    begun = settled(edited(spec, created(small())), name="llm-a")
    assert edited(spec, begun).message == "KubeRay has not begun to replace Ray cluster llm-a"
    begun["status"]["pendingServiceStatus"] = {"rayClusterName": "llm-b"}
    another = small(images={"engine": "dspark-engine:3.0.0"}, updateStrategy=SURGE)
    for wanted in (spec, another, small()):
        step = edited(wanted, begun)
        assert (step.kind, step.reason) == (StepKind.WAIT, "RolloutInProgress")
    done = settled(edited(spec, created(small())), name="llm-b")
    step = edited(spec, done)
    assert step.kind is StepKind.IN_PLACE
    assert step.manifest is not None
    assert not replaces_cluster(done, step.manifest)
    assert edited(spec, settled(step, name="llm-b")).kind is StepKind.NOTHING


def test_a_removed_group_stays_at_zero_and_can_come_back() -> None:
    spec = small()
    spec["pools"].pop(1)
    step = edited(spec, created(small()))
    assert step.kind is StepKind.IN_PLACE
    assert step.manifest is not None
    kept = step.manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]
    assert (kept["groupName"], kept["minReplicas"], kept["maxReplicas"]) == ("drafter-small", 0, 0)
    applications = yaml.safe_load(step.manifest["spec"]["serveConfigV2"])["applications"]
    assert [application["name"] for application in applications] == ["dspark-verifier-big"]
    gone = settled(step, name="llm-a")
    assert edited(spec, gone).kind is StepKind.NOTHING
    back = edited(small(), gone)
    assert back.kind is StepKind.IN_PLACE
    assert edited(small(), settled(back, name="llm-a")).kind is StepKind.NOTHING


def test_a_new_group_is_added_at_the_end_wherever_it_is_written() -> None:
    spec = small()
    spec["pools"].insert(0, {"name": "prefill", "role": "prefill", "groups": [{"name": "cpu"}]})
    live = created(small())
    step = edited(spec, live)
    assert step.kind is StepKind.IN_PLACE
    assert step.manifest is not None
    groups = step.manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [g["groupName"] for g in groups] == ["verifier-big", "drafter-small", "prefill-cpu"]
    assert not replaces_cluster(live, step.manifest)


def test_a_hand_edit_is_undone() -> None:
    live = created(small())
    live["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] = 40
    step = edited(small(), live)
    assert step.kind is StepKind.IN_PLACE
    assert "maxReplicas was changed by somebody else" in step.message


def test_a_ray_service_of_somebody_else_is_not_taken_over_silently() -> None:
    live = created(small())
    live["metadata"]["annotations"] = {}
    assert edited(small(), live).kind is StepKind.HOLD


def test_a_ray_service_that_is_being_deleted_is_waited_for() -> None:
    live = created(small())
    live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert edited(small(), live).reason == "BeingDeleted"


def test_bounds_are_carried_to_the_running_cluster_by_name() -> None:
    spec = small()
    group_of(spec, 1)["replicas"] = {"min": 1, "max": 9}
    live = created(small())
    cluster = {
        "spec": {
            "workerGroupSpecs": [
                {"groupName": "drafter-small", "minReplicas": 0, "maxReplicas": 4},
                {"groupName": "verifier-big", "minReplicas": 1, "maxReplicas": 4},
            ]
        }
    }
    assert count_patch(in_place(ray_service(spec), live), cluster) == [
        {"op": "test", "path": "/spec/workerGroupSpecs/0/groupName", "value": "drafter-small"},
        {"op": "replace", "path": "/spec/workerGroupSpecs/0/minReplicas", "value": 1},
        {"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 9},
    ]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(specs(), min_size=2, max_size=4))
def test_no_chain_of_edits_ever_has_the_gpus_twice(chain: list[Document]) -> None:
    live = created(chain[0])
    for number, spec in enumerate(chain[1:]):
        for _ in range(3):
            step = edited(spec, live)
            if step.kind in (StepKind.NOTHING, StepKind.HOLD):
                break
            assert step.manifest is not None
            if step.kind is StepKind.IN_PLACE:
                assert step.manifest["spec"]["upgradeStrategy"] == {"type": "None"}
                assert not replaces_cluster(live, step.manifest)
                name = live["status"]["activeServiceStatus"]["rayClusterName"]
            else:
                assert step.kind is StepKind.NEW_CLUSTER
                percent = spec["updateStrategy"]["surge"]["maxPercent"]
                groups = step.manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
                assert all(g["replicas"] == g["minReplicas"] == 0 for g in groups)
                extra = cluster_gpus(step.manifest, percent=percent)
                assert extra <= cluster_gpus(live) * percent // 100
                name = f"llm-{number}"
            live = settled(step, name=name)
        else:
            raise AssertionError("an edit does not settle")
