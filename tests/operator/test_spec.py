"""The spec: mistakes are refused, and the message names the field."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from dspark_operator.spec.parse import SpecError, parse_service
from tests.operator.cases import PROFILES, body, profile, service, small

Edit = Callable[[dict[str, Any]], object]


def _group(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["pools"][0]["groups"][0]


def _vllm(spec: dict[str, Any], **vllm: Any) -> None:
    """Lets vLLM run the verifiers."""
    spec["pools"][0] |= {"runtime": "vllm", "vllm": vllm}


MISTAKES: dict[str, tuple[Edit, str]] = {
    "a misspelt key": (
        lambda s: _group(s).update(replica=1),
        "spec.pools[0].groups[0].replica: unknown key; did you mean replicas?",
    ),
    "a misspelt engine setting": (
        lambda s: _group(s).update(engine={"maxSession": 1}),
        "spec.pools[0].groups[big].engine.maxSession: unknown key; did you mean maxSessions?",
    ),
    "an engine setting out of bounds": (
        lambda s: _group(s).update(engine={"numPages": 1}),
        "spec.pools[0].groups[big].engine.numPages: Input should be greater than or equal to 8",
    ),
    "a misspelt scaling setting": (
        lambda s: _group(s).update(scaling={"idleSecond": 1}),
        "spec.pools[0].groups[big].scaling.idleSecond: unknown key; did you mean idleSeconds?",
    ),
    "a count that belongs to the group": (
        lambda s: s.update(controller={"settings": {"initialReplicas": {}}}),
        "spec.controller.settings.initialReplicas: unknown key",
    ),
    "a nested engine setting out of bounds": (
        lambda s: _group(s).update(engine={"drafting": {"deadlineFactor": 0}}),
        "spec.pools[0].groups[big].engine.drafting.deadlineFactor:",
    ),
    "an engine setting that the operator owns": (
        lambda s: _group(s).update(engine={"pool": "x"}),
        "spec.pools[0].groups[big].engine.pool: unknown key",
    ),
    "a minimum above the maximum": (
        lambda s: _group(s).update(replicas={"min": 3, "max": 2}),
        "spec.pools[0].groups[0].replicas: min must not be above max",
    ),
    "a verifier group without replicas": (
        lambda s: _group(s).update(replicas={"min": 0, "max": 2}),
        "spec.pools[0].groups[big].replicas.min: a verifier group needs",
    ),
    "more replicas than the groups may have": (
        lambda s: s.update(replicas=5),
        "spec: replicas must lie between the sums of all verifier groups' replicas.min and "
        "replicas.max: 1 to 4, not 5",
    ),
    "certificates from nowhere": (
        lambda s: s.update(tls={"authorityConfigMapName": "ca"}),
        "spec.tls: exactly one of secretName and issuerRef must be set",
    ),
    "certificates from two places": (
        lambda s: s.update(
            tls={"authorityConfigMapName": "ca", "secretName": "a", "issuerRef": {"name": "b"}}
        ),
        "spec.tls: exactly one of secretName and issuerRef must be set",
    ),
    "certificates that are renewed before they begin": (
        lambda s: s.update(
            tls={"authorityConfigMapName": "ca", "issuerRef": {"name": "b"}, "durationHours": 700}
        ),
        "spec.tls: renewBeforeHours must be below durationHours",
    ),
    "TLS without an authority": (
        lambda s: s.update(tls={"secretName": "a"}),
        "spec.tls.authorityConfigMapName: Field required",
    ),
    "a setting of TLS that the operator owns": (
        lambda s: s.update(gateway={"settings": {"tls": {}}}),
        "spec.gateway.settings.tls: unknown key",
    ),
    "no verifier": (
        lambda s: s["pools"].pop(0),
        "spec.pools: at least one pool with role verifier",
    ),
    "a drafter pool without a drafter": (
        lambda s: s["model"].pop("drafter"),
        "spec.pools[drafter]: a drafter pool needs model.drafter",
    ),
    "two pools of one name": (
        lambda s: s["pools"].append(s["pools"][0]),
        "spec.pools: the name 'verifier' occurs twice",
    ),
    "two sources of a model": (
        lambda s: s["model"]["target"].update(hub={"id": "a/b"}),
        "spec.model.target: exactly one of hub, pvc, objectStore and builtin",
    ),
    "a gateway setting that the operator owns": (
        lambda s: s.update(gateway={"settings": {"port": 1}}),
        "spec.gateway.settings.port: unknown key",
    ),
    "two controllers on one embedded store": (
        lambda s: s.update(controller={"replicas": 2}),
        "spec.controller.replicas: an embedded store belongs to one controller",
    ),
    "a Redis that is not named": (
        lambda s: s.update(controller={"store": {"type": "Redis"}}),
        "spec.controller.store: type Redis needs redis.address",
    ),
    "a token with the operator's name": (
        lambda s: s.update(
            controller={
                "apiTokens": [{"name": "dspark-operator", "role": "viewer", "sha256": "0" * 64}]
            }
        ),
        "spec.controller.apiTokens: the name 'dspark-operator' occurs twice",
    ),
    "a controller setting that the operator owns": (
        lambda s: s.update(controller={"settings": {"apiHost": "0.0.0.0"}}),
        "spec.controller.settings.apiHost: unknown key",
    ),
    "a promise about nothing": (
        lambda s: s.update(slo={}, observability={"monitors": True}),
        "spec.slo: timeToFirstTokenSeconds or interTokenSeconds is needed",
    ),
    "a promise that nobody measures": (
        lambda s: s.update(slo={"interTokenSeconds": 0.1}),
        "spec.slo: observability.monitors is needed",
    ),
    "a promise beyond what is told apart": (
        lambda s: s.update(slo={"timeToFirstTokenSeconds": 60}, observability={"monitors": True}),
        "spec.slo.timeToFirstTokenSeconds: Input should be less than 10",
    ),
    "fewer ports than engines in a pod": (
        lambda s: (
            _group(s).update(replicasPerPod=4),
            s.update(network={"metricsPortMin": 9960, "metricsPortMax": 9962}),
        ),
        "spec.network: metricsPortMin..metricsPortMax is 9960..9962, and 4 replicas share a pod",
    ),
    "ports that overlap": (
        lambda s: s.update(network={"portMax": 9970}),
        "spec.network: the ranges of ports and of metrics ports overlap",
    ),
    "an upgrade without a surge": (
        lambda s: s.update(updateStrategy={"type": "NewClusterWithIncrementalUpgrade"}),
        "spec.updateStrategy: type NewClusterWithIncrementalUpgrade needs surge",
    ),
    "an unknown update strategy": (
        lambda s: s.update(updateStrategy={"type": "NewCluster"}),
        "spec.updateStrategy.type: Input should be 'None' or",
    ),
    "an image without a tag": (
        lambda s: s.update(images={"engine": "dspark-engine"}),
        "spec.images.engine: String should match pattern",
    ),
    "vLLM for another role": (
        lambda s: s["pools"][1].update(runtime="vllm"),
        "spec.pools[1]: runtime vllm is for a pool with role verifier",
    ),
    "settings of vLLM for our own engine": (
        lambda s: s["pools"][0].update(vllm={"drafts": "none"}),
        "spec.pools[0]: vllm is given and runtime is native: say runtime: vllm, or remove it",
    ),
    "a misspelt setting of vLLM": (
        lambda s: _vllm(s, draft="none"),
        "spec.pools[0].vllm.draft: unknown key; did you mean drafts?",
    ),
    "an argument of vLLM that follows from another setting": (
        lambda s: _vllm(s, engineArgs={"model": "x"}),
        "spec.pools[0]: vllm.engine_args.model follows from model.target: remove it",
    ),
    "a setting of our own engine for vLLM": (
        lambda s: (_vllm(s), _group(s).update(engine={"numPages": 64})),
        "spec.pools[0].groups[big].engine: a vLLM pool has no engine settings numPages, ",
    ),
    "a target split over more GPUs than there are": (
        lambda s: _vllm(s, tensorParallelSize=2),
        "spec.pools[0].groups[big].resources: vllm.tensorParallelSize 2 needs 2 GPUs a replica, "
        "and it has 1",
    ),
    "vLLM's own drafts on a CPU": (
        lambda s: (_vllm(s, drafts="colocated"), s["pools"].pop(), _group(s).update(device="cpu")),
        "spec.pools[0].groups[big]: vllm.drafts colocated needs a GPU",
    ),
    "a prefill pool beside vLLM": (
        lambda s: (_vllm(s), s["pools"].append({**s["pools"][1], "name": "p", "role": "prefill"})),
        "spec.pools[p]: vLLM runs prompts itself: a service with runtime vllm has no prefill pool",
    ),
    "two runtimes in one service": (
        lambda s: (s["pools"].append({**s["pools"][0], "name": "more"}), _vllm(s)),
        "spec.pools[more].runtime: all verifier pools of a service have the same runtime",
    ),
    "drafters that nobody asks": (
        lambda s: _vllm(s, drafts="none"),
        "spec.pools[drafter]: a drafter pool beside vLLM needs vllm.drafts pool",
    ),
    "vLLM's own drafts without a drafter": (
        lambda s: (_vllm(s, drafts="colocated"), s["pools"].pop(), s["model"].pop("drafter")),
        "spec.pools: runtime vllm without model.drafter needs vllm.drafts none",
    ),
    "coupled sampling by vLLM": (
        lambda s: (_vllm(s), s.update(gateway={"settings": {"speculationMode": "coupled"}})),
        "spec: vLLM judges drafts by rejection only: set gateway.settings.speculationMode",
    ),
    "cohorts of vLLM": (
        lambda s: (_vllm(s), s.update(speculation={"cohorts": 2})),
        "spec: speculation.cohorts says nothing to vLLM",
    ),
    "ports the wrong way round": (
        lambda s: s.update(network={"portMin": 9950, "portMax": 9910}),
        "spec.network: portMin..portMax is 9950..9910, and 1 replicas share a pod",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_and_its_field_named(mistake: str) -> None:
    edit, message = MISTAKES[mistake]
    spec = copy.deepcopy(small())
    edit(spec)
    with pytest.raises(SpecError) as refusal:
        service(spec)
    assert str(refusal.value).startswith(message), str(refusal.value)


def test_a_name_that_leaves_no_room_for_children_is_refused() -> None:
    with pytest.raises(SpecError, match=r"metadata.name: .* 31 characters"):
        parse_service(body(small(), name="a" * 31))


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_a_valid_spec(name: str) -> None:
    assert service(profile(name)).spec.units()


def test_gpus_are_counted_at_the_largest_size() -> None:
    spec = small()
    spec["pools"][1]["groups"][0]["replicasPerPod"] = 4
    assert service(spec).spec.gpus() == 4 + 1


def test_an_empty_spec_says_what_is_missing() -> None:
    with pytest.raises(SpecError, match=r"^spec.model: Field required"):
        service({})


def test_replicas_fill_the_groups_of_verifiers_in_the_order_written() -> None:
    spec = small()
    groups = spec["pools"][0]["groups"]
    groups.append({**groups[0], "name": "more", "replicas": {"min": 2, "max": 3}})

    def shares(replicas: int | None) -> list[int]:
        given = spec if replicas is None else {**spec, "replicas": replicas}
        return list(service(given).spec.verifier_shares().values())

    assert shares(None) == []
    assert [shares(count) for count in (3, 4, 6, 7)] == [[1, 2], [2, 2], [4, 2], [4, 3]]
