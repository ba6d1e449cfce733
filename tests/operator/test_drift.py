"""Drift: what somebody else changed is found; what the API server rewrites is not."""

import copy
from typing import Any

import pytest

from dspark_operator.drift import changed_list, drift
from tests.operator.cases import children, small


def _live(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    desired = next(c for c in children(small()) if c["kind"] == kind)
    return desired, copy.deepcopy(desired)


def test_defaults_of_the_api_server_are_its_own() -> None:
    desired, live = _live("Deployment")
    live["metadata"]["resourceVersion"] = "7"
    live["spec"]["progressDeadlineSeconds"] = 600
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    assert drift(desired, live) is None


@pytest.mark.parametrize(
    ("asked", "stored"), [("0.5", "500m"), ("1000m", "1"), ("1Gi", "1024Mi"), ("2", 2)]
)
def test_a_quantity_may_be_written_otherwise(asked: str, stored: Any) -> None:
    desired, live = _live("Deployment")
    for document, value in ((desired, asked), (live, stored)):
        container = document["spec"]["template"]["spec"]["containers"][0]
        container["resources"]["requests"]["cpu"] = value
    assert drift(desired, live) is None


def test_a_changed_a_removed_and_an_added_entry_are_found() -> None:
    desired, live = _live("Deployment")
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
    assert "containers[0].image was changed" in str(drift(desired, live))
    desired, live = _live("ConfigMap")
    live["data"].clear()
    assert ".data" in str(drift(desired, live))
    desired, live = _live("Service")
    live["spec"]["ports"].append({"port": 1})
    assert ".spec.ports was changed" in str(drift(desired, live))


def test_another_spec_is_another_digest() -> None:
    _, live = _live("Service")
    spec = small(gateway={"service": {"port": 8080}}, controller={"settings": {}})
    others = [c for c in children(spec) if c["metadata"]["name"] == "llm-gateway"]
    desired = next(c for c in others if c["kind"] == "Service")
    assert drift(desired, live) == "the spec asks for something else"


@pytest.mark.parametrize("empty", [{}, [], False, "", 0])
def test_what_is_empty_may_be_left_out(empty: Any) -> None:
    desired, live = _live("Service")
    desired["spec"]["something"] = empty
    assert drift(desired, live) is None


def test_a_list_that_somebody_changed_is_restored_as_a_whole() -> None:
    desired, live = _live("Service")
    live["spec"]["ports"][0]["port"] = 81
    assert changed_list(desired, live) == ("/spec/ports", desired["spec"]["ports"])
    desired, live = _live("Service")
    live["spec"]["ports"].append({"name": "more", "port": 9})
    assert changed_list(desired, live) == ("/spec/ports", desired["spec"]["ports"])
    desired, live = _live("Deployment")
    live["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "DEBUG"})
    pointer, wanted = changed_list(desired, live) or ("", None)
    assert pointer == "/spec/template/spec/containers"
    assert wanted == desired["spec"]["template"]["spec"]["containers"]


def test_what_we_change_ourselves_and_what_lies_in_no_list_is_applied() -> None:
    desired, live = _live("Service")
    live["spec"]["type"] = "NodePort"
    assert changed_list(desired, live) is None
    live["spec"]["ports"] = []
    live["metadata"]["annotations"] = {}
    assert changed_list(desired, live) is None
    assert changed_list(desired, copy.deepcopy(desired)) is None
