"""The CRDs: the files are what the classes make, and structural; the rules say what they mean."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dspark_operator.chart_schema import with_spec
from dspark_operator.crd import dump, policy_crd, service_crd, spec_schema
from dspark_operator.reference import reference
from dspark_operator.spec.parse import SpecError, parse_policy
from tests.operator.cases import CHART, PROFILES, on_vllm, profile, service, small
from tests.operator.test_spec import MISTAKES

WEIGHT = {"priority": 10, "weight": 0.5}
AGAIN = "run python -m dspark_operator.crd deploy/helm/dspark"


def test_the_files_in_the_chart_are_up_to_date() -> None:
    assert (CHART / "crds/dsparkservices.yaml").read_text() == dump(service_crd()), AGAIN
    assert (CHART / "crds/verificationpolicies.yaml").read_text() == dump(policy_crd()), AGAIN
    values = (CHART / "values.schema.json").read_text()
    assert values == with_spec(values, spec_schema(service_crd())), AGAIN
    specs = spec_schema(service_crd()), spec_schema(policy_crd())
    told = reference((CHART / "values.yaml").read_text(), values, *specs)
    assert (CHART / "REFERENCE.md").read_text() == told, AGAIN


def test_the_reference_tells_every_value_and_every_field() -> None:
    told = (CHART / "REFERENCE.md").read_text()
    for key in (
        "operator.watchNamespaces", "redis.image.tag", "instance.spec",
        "pools[].groups[].replicas.min", "gateway.settings.drainSeconds", "model.target.hub.id",
        "activationSessions",
    ):  # fmt: skip
        (row,) = [line for line in told.splitlines() if line.startswith(f"| `{key}` |")]
        assert row.split(" | ")[3].strip(" |"), row


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below a schema, by path."""
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from _nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from _nodes(node[key], f"{path}[]")


def _root(crd: dict[str, Any]) -> dict[str, Any]:
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("crd", [service_crd(), policy_crd()], ids=["service", "policy"])
def test_a_schema_is_structural(crd: dict[str, Any]) -> None:
    for path, node in _nodes(_root(crd)):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "not", "title", "$defs"} & set(node), path
        assert not ({"properties"} <= set(node) and "additionalProperties" in node), path
        if node.get("x-kubernetes-list-type") == "map":
            for key in node["x-kubernetes-list-map-keys"]:
                assert key in node["items"]["required"], path


@pytest.mark.parametrize("crd", [service_crd(), policy_crd()], ids=["service", "policy"])
def test_every_field_is_described(crd: dict[str, Any]) -> None:
    for path, node in _nodes(_root(crd)["properties"]["spec"]):
        if path and not path.endswith("[]"):
            assert node.get("description"), path


def test_no_engine_setting_has_a_default_that_would_freeze_in_the_object() -> None:
    spec = _root(service_crd())["properties"]["spec"]["properties"]
    engine = spec["pools"]["items"]["properties"]["groups"]["items"]["properties"]["engine"]
    for path, node in _nodes(engine):
        assert "default" not in node or not path, path


def _rules(node: Any, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Every rule that applies somewhere in a value: (rule, message, self)."""
    for entry in node.get("x-kubernetes-validations", []):
        yield entry["rule"], entry["message"], value
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in node.get("properties", {}):
                yield from _rules(node["properties"][name], inner)
    if isinstance(value, list):
        for inner in value:
            yield from _rules(node["items"], inner)


def _defaulted(node: Any, value: Any) -> Any:
    """What the API server makes of a value before it looks at the rules."""
    if isinstance(value, list):
        return [_defaulted(node["items"], entry) for entry in value]
    if not isinstance(value, dict) or "properties" not in node:
        return value
    filled = {
        name: copy.deepcopy(inner["default"])
        for name, inner in node["properties"].items()
        if "default" in inner and name not in value
    } | value
    return {
        name: _defaulted(node["properties"][name], entry)
        for name, entry in filled.items()
        if name in node["properties"]
    }


def _sum(counts: Any) -> Any:
    return sum(counts[1:], start=counts[0]) if counts else 0


def _complaints(spec: dict[str, Any], crd: dict[str, Any] | None = None) -> list[str]:
    celpy = pytest.importorskip("celpy", reason="cel-python is not installed")
    environment = celpy.Environment()
    schema = _root(crd or service_crd())["properties"]["spec"]
    complaints = []
    for rule, message, value in _rules(schema, _defaulted(schema, spec)):
        if "oldSelf" in rule:
            continue
        # Kubernetes' own addition to the language.
        program = environment.program(environment.compile(rule), functions={"sum": _sum})
        if not program.evaluate({"self": celpy.json_to_cel(value)}):
            complaints.append(message)
    return complaints


@pytest.mark.parametrize("name", PROFILES)
def test_the_rules_let_every_profile_pass(name: str) -> None:
    assert _complaints(profile(name)) == []


@pytest.mark.parametrize("vllm", [{}, {"drafts": "pool"}, {"drafts": "none"}])
def test_the_rules_let_vllm_pass(vllm: dict[str, Any]) -> None:
    spec = on_vllm(**vllm)
    spec["pools"][0]["groups"][0]["engine"] = {"maxSessions": 8}
    spec["gateway"] = {"settings": {"speculationMode": "rejection"}}
    if vllm.get("drafts") == "none":
        del spec["pools"][1], spec["model"]["drafter"]
    assert _complaints(spec) == []
    assert service(spec).spec.has_vllm()


def test_arguments_of_vllm_may_be_of_any_kind_and_no_others_may() -> None:
    pool = _root(service_crd())["properties"]["spec"]["properties"]["pools"]["items"]
    vllm = pool["properties"]["vllm"]
    assert vllm["properties"]["engineArgs"]["x-kubernetes-preserve-unknown-fields"] is True
    assert "x-kubernetes-preserve-unknown-fields" not in vllm


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ("a minimum above the maximum", "min must not be above max"),
        ("a verifier group without replicas", "a verifier group needs replicas.min"),
        ("no verifier", "at least one pool with role verifier"),
        ("a drafter pool without a drafter", "a drafter pool needs model.drafter"),
        ("two sources of a model", "exactly one of hub"),
        ("two controllers on one embedded store", "an embedded store belongs to one controller"),
        ("an upgrade without a surge", "NewClusterWithIncrementalUpgrade needs surge"),
        ("a Redis that is not named", "type Redis needs redis.address"),
        ("more replicas than the groups may have", "replicas must lie between the sums"),
        ("certificates from nowhere", "exactly one of secretName and issuerRef must be set"),
        ("certificates from two places", "exactly one of secretName and issuerRef must be set"),
        ("certificates that are renewed before they begin", "renewBeforeHours must be below"),
        ("a promise about nothing", "timeToFirstTokenSeconds or interTokenSeconds is needed"),
        ("a promise that nobody measures", "observability.monitors is needed"),
        ("vLLM for another role", "runtime vllm is for a pool with role verifier"),
        ("settings of vLLM for our own engine", "vllm is given and runtime is native"),
        ("a setting of our own engine for vLLM", "a vLLM pool has no engine settings numPages"),
        ("a prefill pool beside vLLM", "vLLM runs prompts itself"),
        ("two runtimes in one service", "all verifier pools of a service have the same runtime"),
        ("drafters that nobody asks", "a drafter pool beside vLLM needs vllm.drafts pool"),
        ("vLLM's own drafts without a drafter", "runtime vllm without model.drafter needs"),
        ("coupled sampling by vLLM", "vLLM judges drafts by rejection only"),
        ("cohorts of vLLM", "speculation.cohorts says nothing to vLLM"),
    ],
)
def test_a_rule_refuses_what_the_operator_refuses(mistake: str, complaint: str) -> None:
    spec = small()
    MISTAKES[mistake][0](spec)
    assert any(told.startswith(complaint) or complaint in told for told in _complaints(spec))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"mode": "Pinned", "draftTokens": 4}, None),
        ({"floor": 1, "cap": 2, "activationSessions": 3, "shadow": True}, None),
        ({"poolName": "verifier", "groupName": "big", "mode": "VerifyAll"}, None),
        ({"minTokensPerSecond": 5, "priorityWeights": [WEIGHT]}, None),
        ({"mode": "Off", "minTokensPerSecond": 5}, "floor, cap, activationSessions and min"),
        ({"mode": "Off", "priorityWeights": [WEIGHT]}, "priorityWeights share out a budget"),
        ({"mode": "Pinned"}, "draftTokens belongs to mode Pinned"),
        ({"draftTokens": 4}, "draftTokens belongs to mode Pinned"),
        ({"mode": "Off", "cap": 4}, "floor, cap, activationSessions and minTokens"),
        ({"floor": 3, "cap": 2}, "floor must not be above cap"),
        ({"groupName": "big"}, "groupName needs poolName"),
    ],
)
def test_the_rules_of_a_policy_are_the_operators(
    fields: dict[str, Any], complaint: str | None
) -> None:
    spec = {"serviceName": "llm", **fields}
    told = _complaints(spec, policy_crd())
    if complaint is None:
        assert told == []
        assert parse_policy({"spec": spec}).policy()
        return
    assert [text for text in told if text.startswith(complaint)]
    with pytest.raises(SpecError, match=complaint):
        parse_policy({"spec": spec})


def test_a_rule_refuses_an_engine_setting_of_another_role() -> None:
    spec = small()
    spec["pools"][1]["groups"][0]["engine"] = {"numPages": 64}
    assert any("a drafter pool has no engine settings" in told for told in _complaints(spec))


def test_the_scale_of_a_service_is_that_of_its_verifiers() -> None:
    (version,) = service_crd()["spec"]["versions"]
    paths = version["subresources"]["scale"]
    for key, where in paths.items():
        node = _root(service_crd())
        for step in where.strip(".").split("."):
            node = node["properties"][step]
        assert node["type"] == ("string" if key == "labelSelectorPath" else "integer")
    # With a default, the API server would take the number from whoever asked the controller.
    assert "default" not in _root(service_crd())["properties"]["spec"]["properties"]["replicas"]


def test_the_crds_parse_as_yaml() -> None:
    for path in (CHART / "crds").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["kind"] == "CustomResourceDefinition"
