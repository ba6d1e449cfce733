"""Handlers: whole looks at an API server in a dictionary."""

from datetime import UTC, datetime
from typing import Any

import kopf
import pytest

from dspark.rpc.authority import Authority
from dspark_operator.fleet import Answer, FleetReport, UnitReport
from dspark_operator.handlers import reconcile, stop
from dspark_operator.hands import Hands
from dspark_operator.manifests.objects import Cluster
from dspark_operator.trust import Trust
from tests.operator.cases import RELEASE, body, small
from tests.operator.fake_api import FakeApi
from tests.operator.test_certificates import GIVEN, ISSUED

HEALTHY = FleetReport(
    units={
        "verifier-big": UnitReport(
            ready=1, profiled=1, connected_drafters=1, budget="all", drafting=True
        ),
        "drafter-small": UnitReport(ready=1),
    }
)


class World:
    """An API server, an operator's hands, and one service."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.events: list[tuple[str, str]] = []
        self.answer = Answer(fleet=HEALTHY)
        self.token = ""
        self.asked = 0
        self.document = body(small())
        self.memo = kopf.Memo(
            hands=Hands(
                client=self.api,
                cluster=Cluster(minor=32, kinds=frozenset({"policy/v1/PodDisruptionBudget"})),
                release=RELEASE,
                ask_routes=lambda *_: self.answer,
                ask_token=self._token,
                tell=lambda _, *, type, reason, message: self.events.append((type, reason)),
            )
        )

    def _token(self, url: str, model: str, trust: Trust) -> str:
        self.asked += 1
        return self.token

    def look(self) -> dict[str, tuple[str, str]]:
        """One call of the handler; returns its conditions, which the service then has."""
        patch = kopf.Patch()
        reconcile(kopf.Body(self.document), patch, self.memo)
        if "status" in patch:
            self.document["status"] = dict(patch["status"])
        conditions = self.document["status"]["conditions"]
        return {c["type"]: (c["status"], c["reason"]) for c in conditions}

    def compared(self, **status: Any) -> None:
        """What the Job controller says of the pair check."""
        (job,) = [d for key, d in self.api.objects.items() if key[1] == "Job"]
        job["status"] = status or {"succeeded": 1}

    def live(self) -> None:
        """What controllers and KubeRay would do."""
        self.api.of("Deployment", "llm-gateway")["status"] = {"availableReplicas": 1}
        ray = self.api.of("RayService", "llm")
        ray["status"] = {
            "observedGeneration": ray["metadata"]["generation"],
            "activeServiceStatus": {"rayClusterName": "llm-a"},
        }

    def edit(self, **changes: Any) -> None:
        self.document["spec"] = small(**changes)
        self.document["metadata"]["generation"] += 1


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ready(world: World) -> World:
    world.look()
    world.compared()
    world.look()
    world.live()
    world.look()
    world.look()
    world.api.log.clear()
    world.events.clear()
    return world


def test_a_new_service_is_created_and_becomes_ready(world: World) -> None:
    assert world.look()["Reconciling"] == ("True", "CheckingPair")
    world.compared()
    told = world.look()
    assert told["Reconciling"] == ("True", "Creating")
    assert world.api.log[-1] == "apply RayService llm"
    assert ("Normal", "Creating") in world.events
    world.live()
    told = world.look()
    assert told["Ready"] == ("True", "FirstTokenSeen")
    assert told["Reconciling"] == ("False", "UpToDate")
    assert ("Normal", "FirstTokenSeen") in world.events


def test_nothing_is_rolled_before_the_pair_is_compared(world: World) -> None:
    world.look()
    made = {key[1] for key in world.api.objects}
    assert made == {"ServiceAccount", "NetworkPolicy", "Job"}
    world.api.log.clear()
    world.look()
    assert world.api.log == []


def test_a_pair_that_does_not_fit_is_not_rolled_and_what_runs_stays(ready: World) -> None:
    model = small()["model"] | {"drafter": {"hub": {"id": "org/other"}}}
    ready.edit(model=model)
    assert ready.look()["Reconciling"] == ("True", "CheckingPair")
    jobs = {d["metadata"]["name"]: d for k, d in ready.api.objects.items() if k[1] == "Job"}
    name = next(n for n, j in jobs.items() if "status" not in j)
    said = "dspark: the drafter expects a target with hidden_size 8, this target has 16"
    ended = {"terminated": {"exitCode": 1, "message": f"loading\n{said}\n"}}
    ready.api.objects["v1", "Pod", "serving", f"{name}-x"] = {
        "metadata": {
            "name": f"{name}-x",
            "labels": {"serving.dspark.dev/service": "llm", "job-name": name},
        },
        "status": {"containerStatuses": [{"name": "pair-check", "state": ended}]},
    }
    ready.api.log.clear()
    told = ready.look()
    assert told["Stalled"] == ("True", "IncompatibleDrafter")
    assert told["Ready"] == ("True", "FirstTokenSeen")
    assert ready.api.log == []
    (stalled,) = [c for c in ready.document["status"]["conditions"] if c["type"] == "Stalled"]
    assert stalled["message"] == said.removeprefix("dspark: ")
    assert ("Warning", "IncompatibleDrafter") in ready.events
    # Back to the pair that fits: its check is remembered.
    ready.edit()
    assert ready.look()["Reconciling"] == ("False", "UpToDate")
    assert f"delete Job {name}" in ready.api.log


def test_a_comparison_that_cannot_be_carried_out_is_no_verdict(world: World) -> None:
    world.look()
    failed = {"type": "Failed", "status": "True", "message": "Job was active longer than deadline"}
    world.compared(conditions=[failed])
    assert world.look()["Stalled"] == ("True", "PairCheckFailed")


def test_a_settled_service_is_neither_written_nor_asked_for_tokens(ready: World) -> None:
    before, asked = ready.document["status"], ready.asked
    ready.look()
    assert ready.api.log == []
    assert ready.document["status"] == before
    assert ready.asked == asked


def test_a_kind_that_comes_later_is_seen(ready: World) -> None:
    hands: Hands = ready.memo.hands
    now_s = [hands.clock()]
    hands.clock = lambda: now_s[0]
    grown = Cluster(
        minor=33, kinds=hands.cluster.kinds | {"autoscaling/v2/HorizontalPodAutoscaler"}
    )
    hands.ask_cluster = lambda _: grown
    ready.edit(gateway={"autoscaling": {}})
    assert ready.look()["ScalingReady"] == ("False", "KindMissing")
    now_s[0] += 100.0
    assert ready.look()["ScalingReady"][1] != "KindMissing"
    assert "apply HorizontalPodAutoscaler llm-gateway" in ready.api.log


def test_a_deployment_that_replaces_its_pods_in_another_way_is_made_anew(ready: World) -> None:
    store = {"type": "Redis", "redis": {"address": "redis:6379"}}
    ready.edit(controller={"replicas": 2, "store": store})
    ready.look()
    touched = [entry for entry in ready.api.log if "Deployment" in entry]
    assert touched[:2] == ["delete Deployment llm-controller", "apply Deployment llm-controller"]
    ready.api.log.clear()
    ready.edit(controller={"replicas": 3, "store": store})
    ready.look()
    assert [e for e in ready.api.log if "llm-controller" in e and "Deployment" in e] == [
        "apply Deployment llm-controller"
    ]


def _authority(world: World, **data: str) -> None:
    world.api.objects["v1", "ConfigMap", "serving", "authority"] = {
        "metadata": {"name": "authority", "namespace": "serving"}, "data": data,
    }  # fmt: skip


def test_pods_that_could_not_start_are_not_made(world: World) -> None:
    world.edit(tls=ISSUED)
    told = world.look()
    assert told["Stalled"] == ("True", "CertManagerMissing")
    world.edit(tls=GIVEN)
    for data in ({}, {"ca.crt": "no certificate"}):
        if data:
            _authority(world, **data)
        assert world.look()["Stalled"] == ("True", "AuthorityMissing")
    assert "Deployment" not in {key[1] for key in world.api.objects}
    made = Authority.new("a test", days=1.0, now=datetime.now(UTC))
    _authority(world, **{"ca.crt": made.pair.certificate.decode()})
    assert world.look()["Reconciling"] == ("True", "CheckingPair")


def test_tls_is_turned_on_in_all_processes_once_the_engines_are_gone(ready: World) -> None:
    made = Authority.new("a test", days=1.0, now=datetime.now(UTC))
    _authority(ready, **{"ca.crt": made.pair.certificate.decode()})
    ready.edit(tls=GIVEN)
    assert ready.look()["Stalled"] == ("True", "NewClusterNeeded")
    assert ready.api.log == [], "nothing is rolled meanwhile"
    del ready.api.objects["ray.io/v1", "RayService", "serving", "llm"]
    told = ready.look()
    assert told["Reconciling"] == ("True", "Creating")
    applied = [entry for entry in ready.api.log if "Deployment" in entry or "RayService" in entry]
    assert applied == ["apply Deployment llm-controller", "apply Deployment llm-gateway",
                       "apply RayService llm"]  # fmt: skip


def test_a_token_is_asked_for_again_after_an_outage(ready: World) -> None:
    asked = ready.asked
    ready.answer = Answer(problem="connection refused")
    ready.look()
    assert ready.look()["Ready"] == ("False", "RoutesUnknown")
    ready.answer, ready.token = Answer(fleet=HEALTHY), "HTTP Error 503"
    assert ready.look()["Ready"] == ("False", "NoFirstToken")
    ready.token = ""
    assert ready.look()["Ready"] == ("True", "FirstTokenSeen")
    assert ready.asked == asked + 2


def test_one_question_without_an_answer_is_no_news(ready: World) -> None:
    before, asked = ready.document["status"], ready.asked
    for answer in (Answer(problem="timed out"), Answer(fleet=HEALTHY)) * 2:
        ready.answer = answer
        ready.look()
        assert ready.document["status"] == before
    assert ready.asked == asked


def test_what_somebody_changed_is_written_again_and_nothing_else(ready: World) -> None:
    ready.api.of("Service", "llm-gateway")["spec"]["type"] = "NodePort"
    ready.look()
    assert ready.api.log == ["apply Service llm-gateway"]


def test_a_list_that_somebody_changed_is_replaced_since_an_apply_would_keep_it(
    ready: World,
) -> None:
    wanted = ready.api.of("Service", "llm-gateway")["spec"]["ports"]
    ready.api.of("Service", "llm-gateway")["spec"]["ports"] = [{**wanted[0], "port": 81}]
    ready.look()
    assert ready.api.log == ["patch Service llm-gateway"]
    assert ready.api.patches[-1] == [{"op": "add", "path": "/spec/ports", "value": wanted}]


def test_children_that_are_no_longer_wanted_are_deleted_and_volumes_never(ready: World) -> None:
    ready.edit(
        network={"policies": False},
        controller={"store": {"embedded": {"persistent": False}}},
    )
    ready.look()
    deleted = {entry for entry in ready.api.log if entry.startswith("delete")}
    names = ("gateway", "controller", "engine", "ray-head", "pair-check")
    assert deleted == {f"delete NetworkPolicy llm-{name}" for name in names}
    assert ready.api.of("PersistentVolumeClaim", "llm-controller-store")


def test_a_held_edit_leaves_the_ray_service_alone_and_warns(ready: World) -> None:
    ready.edit(images={"engine": "dspark-engine:9.9.9"})
    ready.look()
    (job,) = [d for k, d in ready.api.objects.items() if k[1] == "Job" and "status" not in d]
    job["status"] = {"succeeded": 1}
    ready.api.log.clear()
    told = ready.look()
    assert told["Stalled"] == ("True", "NewClusterNeeded")
    assert told["Ready"] == ("True", "FirstTokenSeen")
    assert not [entry for entry in ready.api.log if "RayService" in entry]
    assert ("Warning", "NewClusterNeeded") in ready.events


def test_a_mistake_touches_nothing(ready: World) -> None:
    ready.edit()
    ready.document["spec"]["pools"][0]["role"] = "prefetch"
    assert ready.look()["Stalled"] == ("True", "InvalidSpec")
    assert ready.api.log == []


def test_a_refusal_of_the_api_server_is_told_in_its_words(ready: World) -> None:
    ready.edit(controller={"store": {"embedded": {"size": "512Mi"}}})
    ready.api.refusing["PersistentVolumeClaim"] = "field can not be less than previous value"
    told = ready.look()
    assert told["Stalled"] == ("True", "Refused")
    (stalled,) = [c for c in ready.document["status"]["conditions"] if c["type"] == "Stalled"]
    assert "llm-controller-store: field can not be less" in stalled["message"]


def test_a_failure_of_the_api_server_is_told_and_tried_again(world: World) -> None:
    world.look()
    world.compared()
    world.api.failing.add("Deployment")
    with pytest.raises(kopf.TemporaryError, match="etcd is away"):
        world.look()
    patch = kopf.Patch()
    with pytest.raises(kopf.TemporaryError):
        reconcile(kopf.Body(world.document), patch, world.memo)
    told = {c["type"]: c for c in patch["status"]["conditions"]}
    assert (told["Reconciling"]["status"], told["Reconciling"]["reason"]) == (
        "True", "ApiServerError",
    )  # fmt: skip
    assert told["Ready"]["status"] == "False"
    world.api.failing.clear()
    assert world.look()["Reconciling"] == ("True", "Creating")


def test_a_first_visit_that_fails_leaves_every_condition_unknown(world: World) -> None:
    world.api.failing.add("ServiceAccount")
    patch = kopf.Patch()
    with pytest.raises(kopf.TemporaryError):
        reconcile(kopf.Body(world.document), patch, world.memo)
    told = {c["type"]: c["status"] for c in patch["status"]["conditions"]}
    assert told.pop("Reconciling") == "True"
    assert set(told.values()) == {"Unknown"}
    assert "observedGeneration" not in patch["status"]


def test_a_cluster_without_kuberay_is_told_so(world: World) -> None:
    world.api.missing.add("RayService")
    world.look()
    world.compared()
    assert world.look()["Stalled"] == ("True", "KubeRayMissing")


def test_bounds_are_carried_to_the_running_ray_cluster(ready: World) -> None:
    ray = ready.api.of("RayService", "llm")
    key = ("ray.io/v1", "RayCluster", "serving", "llm-a")
    ready.api.objects[key] = {
        "metadata": {"name": "llm-a"},
        "spec": ray["spec"]["rayClusterConfig"],
    }
    spec = small()
    spec["pools"][0]["groups"][0]["replicas"] = {"min": 1, "max": 7}
    ready.edit(pools=spec["pools"])
    ready.look()
    assert {"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 7} in (
        ready.api.patches[-1]
    )


def test_a_deleted_service_stops_its_gateway_then_its_engines(ready: World) -> None:
    ready.document["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z"
    ready.look()
    assert ready.api.log == [], "nothing is made again while it is deleted"
    with pytest.raises(kopf.TemporaryError):
        stop(kopf.Body(ready.document), ready.memo)
    with pytest.raises(kopf.TemporaryError):
        stop(kopf.Body(ready.document), ready.memo)
    stop(kopf.Body(ready.document), ready.memo)
    assert ready.api.log == ["delete Deployment llm-gateway", "delete RayService llm"]
    assert [reason for _, reason in ready.events] == [
        "DrainingGateway", "DrainingEngines", "Drained",
    ]  # fmt: skip


def test_a_broken_service_can_be_deleted(world: World) -> None:
    world.document["spec"] = {}
    stop(kopf.Body(world.document), world.memo)
    assert world.api.log == []
