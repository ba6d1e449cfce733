"""Claims: manifests of one service beside one another, and the policy's spec."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.policy import Mode, Policy
from dspark_operator.claims import asked_of, claims
from dspark_operator.spec.parse import SpecError, parse_policy
from dspark_operator.verification import Asked, Wish
from tests.operator.cases import ROOT, policy_manifest, service, small


def test_the_example_of_the_documentation_is_valid() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    examples = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S))
    (document,) = (one for one in examples if one.get("kind") == "VerificationPolicy")
    (claim,) = claims([document], service(small()))
    assert claim.refusal is None


def two_groups() -> Any:
    spec = small()
    groups = spec["pools"][0]["groups"]
    groups.append({**groups[0], "name": "more"})
    return service(spec)


def test_a_manifest_speaks_of_every_verifier_or_of_a_pool_or_of_a_group() -> None:
    for more, units in (
        ({}, ("verifier-big", "verifier-more")),
        ({"poolName": "verifier"}, ("verifier-big", "verifier-more")),
        ({"poolName": "verifier", "groupName": "more"}, ("verifier-more",)),
    ):
        (claim,) = claims([policy_manifest(mode="Pinned", draftTokens=4, reason="a test", **more)],
                          two_groups())  # fmt: skip
        assert claim.units == units
        assert claim.wish == Wish(
            policy=Policy(mode=Mode.PINNED, draft_tokens=4),
            reason="VerificationPolicy calm: a test",
        )


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        ({"mode": "Pinned"}, "InvalidSpec", "spec: draftTokens belongs to mode Pinned"),
        ({"capp": 1}, "InvalidSpec", "spec.capp: unknown key; did you mean cap?"),
        ({"poolName": "drafter"}, "PoolMissing", "there are verifier/big, verifier/more"),
        ({"poolName": "verifier", "groupName": "x"}, "PoolMissing", "no verifier group is meant"),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_refused(
    spec: dict[str, Any], reason: str, message: str
) -> None:
    (claim,) = claims([policy_manifest(**spec)], two_groups())
    assert claim.refusal is not None
    assert claim.refusal.reason == reason
    assert message in claim.refusal.message
    assert claim.units == ()


def test_of_two_manifests_for_the_same_verifiers_the_older_one_counts() -> None:
    young = policy_manifest("a", age=9, poolName="verifier", groupName="more")
    old = policy_manifest("z", age=1)
    first, second = claims([young, old], two_groups())
    assert (first.name, first.units) == ("z", ("verifier-big", "verifier-more"))
    assert second.refusal is not None
    assert (second.refusal.reason, second.units) == ("Conflicted", ())
    assert "the older z" in second.refusal.message


def test_a_manifest_for_a_share_lies_beside_one_for_all() -> None:
    whole, share = policy_manifest("calm", cap=9), policy_manifest("try", cap=2, canaryShare=0.25)
    other = policy_manifest("late", age=9, canaryShare=0.5)
    first, second, third = claims([whole, share, other], service(small()))
    assert (first.units, second.units) == (("verifier-big",), ("verifier-big",))
    assert third.refusal is not None
    assert "the older try" in third.refusal.message
    assert asked_of("verifier-big", [first, second, third]) == Asked(
        whole=Wish(policy=Policy(cap=9), reason="VerificationPolicy calm"),
        canary=Wish(policy=Policy(cap=2, canary_share=0.25), reason="VerificationPolicy try"),
    )
    assert asked_of("verifier-more", [first, second, third]) == Asked()


@given(
    mode=st.sampled_from(["Auto", "Pinned", "Off", "VerifyAll"]),
    bounds=st.fixed_dictionaries(
        {},
        optional={
            "draftTokens": st.integers(0, 3),
            "floor": st.integers(0, 3),
            "cap": st.integers(0, 3),
            "activationSessions": st.integers(1, 3),
            "minTokensPerSecond": st.sampled_from([1, 2.5]),
            "priorityWeights": st.lists(
                st.fixed_dictionaries({"priority": st.integers(-2, 2), "weight": st.just(2)}),
                max_size=3,
            ),
            "groupName": st.just("big"),
            "poolName": st.just("verifier"),
            "canaryShare": st.sampled_from([0.1, 0.99]),
            "shadow": st.booleans(),
        },
    ),
)
def test_a_spec_that_is_taken_is_a_policy(mode: str, bounds: dict[str, Any]) -> None:
    """The spec's own checks leave nothing for the controller to refuse."""
    try:
        spec = parse_policy({"spec": {"serviceName": "llm", "mode": mode, **bounds}})
    except SpecError as error:
        assert str(error).startswith(("spec: ", "spec.priorityWeights: "))  # noqa: PT017  # both ways are legal here
        return
    assert spec.policy().shadow is bounds.get("shadow", False)
