"""Policies, manifest to controller and back: the real control API, a cluster in a dictionary."""

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import kopf
import pytest

from dspark.config.controller import ApiToken, ControllerSettings
from dspark.controller.api.asks import PolicyShape, SetPolicy
from dspark.controller.loop import Controller
from dspark.controller.policies import Ask
from dspark.core.ids import PoolName
from dspark.core.policy import Mode, Policy
from dspark_operator.control import ControlApi, ControlError, Unreachable, addresses, held_from
from dspark_operator.control_key import digest_of, token_of
from dspark_operator.document import part
from dspark_operator.govern import bring_sizes, settle
from dspark_operator.handlers import policy as on_event
from dspark_operator.hands import Hands
from dspark_operator.manifests.objects import Cluster
from dspark_operator.spec.parse import Service
from dspark_operator.spec.policy import PolicySpec
from dspark_operator.structural import settings_schema, structural
from dspark_operator.verification import Act, Asked, Held, Wish
from tests.controller.served import a_controller, served_api
from tests.operator.answering import Answering, served
from tests.operator.cases import RELEASE, body, service, small
from tests.operator.fake_api import FakeApi

UNIT = "verifier"
POOL = PoolName(UNIT)
CALM = Wish(policy=Policy(mode=Mode.OFF), reason="VerificationPolicy calm")
ALL_CALM = Asked(whole=CALM)
TOKEN = token_of(RELEASE.control_key, service(small()))


@pytest.fixture
def controller() -> Controller:
    tokens = (
        ApiToken(name="dspark-operator", role="admin", sha256=digest_of(TOKEN)),
        ApiToken(name="ada", role="operator", sha256=digest_of("ada's")),
    )
    return a_controller(ControllerSettings(api_tokens=tokens))


@pytest.fixture
def url(controller: Controller) -> Iterator[str]:
    with served_api(controller) as where:
        yield where


def ada(url: str, *, pool: str = UNIT, **ask: Any) -> None:
    """What a person does at the control API."""
    request = urllib.request.Request(
        f"{url}/v1/pools/{pool}/policy", json.dumps({"reason": "a peak", **ask}).encode(),
        {"authorization": "Bearer ada's", "content-type": "application/json"}, method="PUT",
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10):
        return


def test_a_manifest_is_set_held_restored_and_cleared(controller: Controller, url: str) -> None:
    api = ControlApi(url=url, token=TOKEN)
    outcome = settle(api, UNIT, ALL_CALM)
    assert (outcome.act, outcome.replaced) == (Act.NOTHING, None)
    (layer,) = controller.policies.layers(POOL, 0.0)
    assert (layer.author, layer.policy) == ("dspark-operator", CALM.policy)
    version = controller.policies.version(POOL)
    settle(api, UNIT, ALL_CALM)
    assert controller.policies.version(POOL) == version, "what holds is not set again"

    ada(url, policy={"cap": 3})  # without an end
    outcome = settle(api, UNIT, ALL_CALM)
    assert outcome.replaced is not None
    assert (outcome.replaced.author, outcome.replaced.policy) == ("ada", Policy(cap=3))
    (layer,) = controller.policies.layers(POOL, 0.0)
    assert layer.policy == CALM.policy

    settle(api, UNIT, Asked())
    assert controller.policies.layers(POOL, 0.0) == ()
    ada(url, policy={"cap": 3})
    settle(api, UNIT, Asked())
    (layer,) = controller.policies.layers(POOL, 0.0)
    assert layer.author == "ada", "what no manifest ever asked for is nobody's to clear"


def test_every_field_of_a_policy_comes_back_as_it_was_set(controller: Controller, url: str) -> None:
    api = ControlApi(url=url, token=TOKEN)
    for policy in (
        Policy(),
        Policy(cap=2, canary_share=0.25),
        Policy(mode=Mode.PINNED, draft_tokens=4, priority_weights=((-1, 2.0), (10, 0.5))),
        Policy(floor=1, cap=9, activation_sessions=3, min_tokens_per_s=2.5, shadow=True),
        Policy(mode=Mode.VERIFY_ALL),
    ):
        wish = Wish(policy=policy, reason="a test")
        asked = Asked(canary=wish) if wish.is_canary else Asked(whole=wish)
        settle(api, UNIT, asked)
        version = controller.policies.version(POOL)
        assert settle(api, UNIT, asked).problem == ""
        assert controller.policies.version(POOL) == version, policy
        (layer,) = controller.policies.layers(POOL, 0.0)
        assert layer.policy == policy
    covered = {"mode", "draft_tokens", "floor", "cap", "activation_sessions", "shadow",
               "min_tokens_per_s", "priority_weights", "canary_share"}  # fmt: skip
    assert covered == {entry.name for entry in fields(Policy)}, "a field is not tested"


def test_a_canary_comes_beside_a_policy_and_goes_without_it(
    controller: Controller, url: str
) -> None:
    api = ControlApi(url=url, token=TOKEN)
    tried = Wish(policy=Policy(cap=2, canary_share=0.25), reason="VerificationPolicy try")

    def held() -> list[tuple[str, Policy]]:
        return [(layer.author, layer.policy) for layer in controller.policies.layers(POOL, 0.0)]

    ours = ("dspark-operator", CALM.policy)
    outcome = settle(api, UNIT, Asked(whole=CALM, canary=tried))
    assert (outcome.act, outcome.canaries) == (Act.NOTHING, 0), "one replica is never a canary"
    assert held() == [ours, ("dspark-operator", tried.policy)]
    settle(api, UNIT, ALL_CALM)
    assert held() == [ours]
    settle(api, UNIT, Asked())
    settle(api, UNIT, Asked(canary=tried))
    settle(api, UNIT, Asked())
    assert held() == []

    # On top of what is somebody's, which stays theirs.
    ada(url, policy={"cap": 3})
    settle(api, UNIT, Asked(canary=tried))
    settle(api, UNIT, Asked(canary=Wish(policy=tried.policy, reason="VerificationPolicy anew")))
    assert held()[0] == ("ada", Policy(cap=3))
    settle(api, UNIT, Asked())
    assert held() == [("ada", Policy(cap=3))]
    ada(url, policy={"cap": 1, "canary_share": 0.5})
    outcome = settle(api, UNIT, Asked(canary=tried))
    assert outcome.replaced is not None
    assert (outcome.replaced.author, outcome.replaced.policy.cap) == ("ada", 1)


def test_a_manifest_says_all_that_the_control_api_takes() -> None:
    """A field that one has and the other lacks is a mistake, and so is another bound."""
    taken = part(settings_schema(PolicyShape), "properties")
    live = {name.replace("PerSeconds", "PerSecond"): field for name, field in taken.items()}
    spec = part(structural(PolicySpec), "properties")
    of_the_manifest = {"serviceName", "poolName", "groupName", "reason"}
    assert set(spec) - of_the_manifest == set(live)
    for name in live:
        theirs, ours = part(live, name), part(spec, name)
        for key in ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
                    "maxItems"):  # fmt: skip
            assert theirs.get(key) == ours.get(key), f"{name}: {key}"
    modes: Any = part(spec, "mode")["enum"]
    written = [re.sub(r"(?<!^)([A-Z])", r"-\1", mode).lower() for mode in modes]
    assert written == part(live, "mode")["enum"]
    # What is asked beside the policy: a manifest has no end, and its reason is its own field.
    assert set(SetPolicy.model_fields) == {"policy", "reason", "ttl_s"}


def test_an_override_wins_while_it_lasts_and_the_manifest_holds_again(
    controller: Controller, url: str
) -> None:
    api = ControlApi(url=url, token=TOKEN)
    settle(api, UNIT, ALL_CALM)
    ada(url, policy={"cap": 3}, ttl_s=1000)
    version = controller.policies.version(POOL)
    edited = Asked(whole=Wish(policy=Policy(cap=9), reason="an edit"))
    for asked in (ALL_CALM, edited, Asked()):
        outcome = settle(api, UNIT, asked)
        assert outcome.held is not None
        assert outcome.held.override is not None
        assert (outcome.held.override.author, outcome.act) == (
            "ada", Act.NOTHING if asked == ALL_CALM else Act.WAIT,
        )  # fmt: skip
    assert controller.policies.version(POOL) == version, "nothing was touched"
    long_after = outcome.held.override.until_unix_s
    assert long_after is not None
    (layer,) = controller.policies.layers(POOL, long_after + 1)
    assert layer.policy == CALM.policy


def test_whoever_was_faster_is_looked_at_again(controller: Controller, url: str) -> None:
    class Raced(ControlApi):
        """Somebody changes the policy between each read and the change that follows it."""

        times = 2

        def set(self, unit: str, wish: Wish, version: int) -> None:
            if self.times:
                self.times -= 1
                ask = Ask(author="ada", reason="faster", unix_s=0.0)
                controller.set_policy(POOL, Policy(cap=self.times + 1), ask)
            super().set(unit, wish, version)

    settle(Raced(url=url, token=TOKEN), UNIT, ALL_CALM)
    newest, *older = controller.policies.history(POOL)
    assert (newest.author, newest.policy) == ("dspark-operator", CALM.policy)
    assert [change.author for change in older] == ["ada", "ada"]

    class Hopeless(Raced):
        times = 1000

    other_wish = Asked(whole=Wish(policy=Policy(), reason="x"))
    outcome = settle(Hopeless(url=url, token=TOKEN), UNIT, other_wish)
    assert outcome.problem == "somebody changes it again and again"


def test_problems_are_told_in_words(url: str) -> None:
    def problem(api: ControlApi, unit: str = UNIT) -> str:
        return settle(api, unit, ALL_CALM).problem

    assert "401" in problem(ControlApi(url=url, token="wrong"))
    assert "no pool is called" in problem(ControlApi(url=url, token=TOKEN), "verifier-none")
    nobody = settle(ControlApi(url="http://127.0.0.1:1", token=TOKEN), UNIT, ALL_CALM)
    assert nobody.unreachable
    assert nobody.problem.startswith("http://127.0.0.1:1: ")
    nowhere = settle(ControlApi(url="http://nowhere.invalid:1", token=TOKEN), UNIT, ALL_CALM)
    assert nowhere.unreachable
    with pytest.raises(ControlError, match="not a policy"):
        held_from({})
    other = {"version": 1, "layers": [{"policy": {"mode": "auto", "ceiling": 3}}]}
    with pytest.raises(ControlError, match="a policy of another version"):
        held_from(other)


def test_a_name_becomes_its_addresses() -> None:
    assert list(addresses("http://localhost:90/a")) in (
        ["http://127.0.0.1:90/a"],
        ["http://127.0.0.1:90/a", "http://[::1]:90/a"],
        ["http://[::1]:90/a", "http://127.0.0.1:90/a"],
    )


class _Standby(Answering):
    """A controller that does not lead."""

    def do_GET(self) -> None:
        self.say(409, {"error": {"message": "this controller is a standby"}})


def test_of_several_controllers_the_one_that_leads_is_asked(url: str) -> None:
    def problem(*found: str) -> str:
        api = ControlApi(url="http://llm-controllers", token=TOKEN, resolve=lambda _: found)
        return settle(api, UNIT, ALL_CALM).problem

    with served(_Standby) as standby:
        nobody = "http://127.0.0.1:1"
        assert problem(standby, nobody, url) == ""
        told = problem(standby, nobody)
    assert "no controller leads" in told
    assert "this controller is a standby" in told


class World:
    """A cluster with one service whose controller runs, and its policies."""

    def __init__(self, url: str) -> None:
        self.api = FakeApi()
        self.events: list[tuple[str, str, str]] = []
        self.hands = Hands(
            client=self.api,
            cluster=Cluster(),
            release=RELEASE,
            control_url=url,
            tell=lambda obj, *, type, reason, message: self.events.append(
                (obj["metadata"]["name"], reason, message)
            ),
        )
        spec = small()
        spec["pools"][0]["groups"][0]["name"] = "big"
        self.put("DSparkService", "serving.dspark.dev/v1alpha1", body(spec))
        self.put("Deployment", "apps/v1", {
            "metadata": {"name": "llm-controller", "namespace": "serving"},
            "status": {"availableReplicas": 1},
        })  # fmt: skip

    def put(self, kind: str, api_version: str, document: dict[str, Any]) -> None:
        self.api.objects[api_version, kind, "serving", document["metadata"]["name"]] = document

    def manifest(self, name: str = "calm", **spec: Any) -> dict[str, Any]:
        document = {
            "metadata": {"name": name, "namespace": "serving", "generation": 1,
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"serviceName": "llm", **spec},
        }  # fmt: skip
        self.put("VerificationPolicy", "serving.dspark.dev/v1alpha1", document)
        return document

    def happens(self, document: dict[str, Any]) -> dict[str, tuple[str, str]]:
        """An event of a manifest; returns its conditions afterwards."""
        on_event(kopf.Body(document), kopf.Memo(hands=self.hands))
        conditions = document.get("status", {}).get("conditions", [])
        return {c["type"]: (c["status"], c["reason"]) for c in conditions}

    def gone(self, document: dict[str, Any]) -> None:
        del self.api.objects[
            "serving.dspark.dev/v1alpha1", "VerificationPolicy", "serving",
            document["metadata"]["name"],
        ]  # fmt: skip
        self.happens(document)


@pytest.fixture
def world(controller: Controller, url: str) -> World:
    # The controller knows the unit as the service names it.
    controller.registry.roles[PoolName("verifier-big")] = controller.registry.roles[POOL]
    return World(url)


def test_a_manifest_comes_is_overridden_and_goes(world: World, controller: Controller) -> None:
    calm = world.manifest(mode="Off", reason="a test")
    big = PoolName("verifier-big")
    assert world.happens(calm) == {
        "Accepted": ("True", "Valid"), "Ready": ("True", "Applied"), "InForce": ("True", "InForce"),
    }  # fmt: skip
    (layer,) = controller.policies.layers(big, 0.0)
    assert layer.reason == "VerificationPolicy calm: a test"
    assert world.api.log == ["status VerificationPolicy calm"]
    world.happens(calm)
    assert world.api.log == ["status VerificationPolicy calm"], "nothing new, nothing written"

    ada(world.hands.control_url, pool=big, policy={"cap": 3})
    world.happens(calm)
    (event,) = world.events
    assert event[:2] == ("calm", "Replaced")
    assert "ada set auto, cap 3: a peak" in event[2]

    world.gone(calm)
    assert controller.policies.layers(big, 0.0) == ()


def test_a_second_manifest_takes_over_when_the_first_goes(
    world: World, controller: Controller
) -> None:
    first, second = world.manifest(mode="Off"), world.manifest("warm", cap=5)
    world.happens(first)
    assert world.happens(second)["Accepted"] == ("False", "Conflicted")
    world.gone(first)
    assert world.happens(second)["InForce"] == ("True", "InForce")
    (layer,) = controller.policies.layers(PoolName("verifier-big"), 0.0)
    assert layer.policy == Policy(cap=5)


def test_one_question_without_an_answer_is_no_news(world: World) -> None:
    calm = world.manifest(mode="Off")
    before = world.happens(calm)
    world.hands.control_url = "http://127.0.0.1:1"
    assert world.happens(calm) == before
    assert world.happens(calm)["InForce"] == ("Unknown", "ControllerUnknown")


def test_nobody_is_waited_for_once_for_each_group(world: World) -> None:
    spec = small()
    groups = spec["pools"][0]["groups"]
    groups += [{**groups[0], "name": name} for name in ("b", "c")]
    world.put("DSparkService", "serving.dspark.dev/v1alpha1", body(spec))
    asked: list[str] = []

    class Silent(ControlApi):
        def policy(self, unit: str) -> Held:
            asked.append(unit)
            raise Unreachable("timed out")

    class Deaf(Hands):
        def control(self, service: Service) -> ControlApi:
            return Silent(url="", token="")

    world.hands = Deaf(client=world.api, cluster=Cluster(), release=RELEASE)
    calm = world.manifest(mode="Off")
    world.happens(calm)
    assert world.happens(calm)["InForce"] == ("Unknown", "ControllerUnknown")
    assert asked == ["verifier-big"] * 2


def test_the_number_of_verifiers_is_asked_for_and_taken_back(
    world: World, controller: Controller
) -> None:
    big = PoolName("verifier-big")
    scaled, free = service({**small(), "replicas": 3}), service(small())

    def asked() -> tuple[int, str] | None:
        wish = controller.wishes.of(big)
        return None if wish is None else (wish.replicas, wish.author)

    assert bring_sizes(world.hands, scaled) == ""
    assert asked() == (3, "dspark-operator")
    controller.set_wanted(big, 1, author="ada", reason="a test", unix_s=0.0)
    bring_sizes(world.hands, scaled)
    assert asked() == (3, "dspark-operator"), "the spec speaks"
    bring_sizes(world.hands, free)
    assert asked() is None
    controller.set_wanted(big, 2, author="ada", reason="a test", unix_s=0.0)
    bring_sizes(world.hands, free)
    assert asked() == (2, "ada"), "what the spec never asked for is not its to take back"


def test_a_number_that_cannot_be_asked_for_is_told_at_the_second_look(world: World) -> None:
    world.hands.control_url = "http://127.0.0.1:1"
    scaled = service({**small(), "replicas": 3})
    assert bring_sizes(world.hands, scaled) == ""
    assert bring_sizes(world.hands, scaled).startswith("verifier-big: http://127.0.0.1:1")
    assert bring_sizes(world.hands, service(small())) == "", "nobody asked for a number"


def test_a_service_that_goes_leaves_its_policies_with_the_word(world: World) -> None:
    calm = world.manifest(mode="Off")
    world.happens(calm)
    live = world.api.of("DSparkService", "llm")
    live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.happens(calm)["InForce"] == ("False", "ServiceMissing")


def test_nobody_is_asked_before_the_controller_runs(world: World) -> None:
    world.api.of("Deployment", "llm-controller")["status"] = {}
    calm = world.manifest(mode="Off")
    assert world.happens(calm) == {}
