"""Verification policies: decisions, claims and status, without a controller."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.policy import Mode, Policy
from dspark_operator.spec.parse import SpecError, parse_policy
from dspark_operator.verification import (
    Act,
    Held,
    Layer,
    Outcome,
    Wish,
    claims,
    next_act,
    policy_status,
)
from tests.operator.cases import ROOT, service, small

NOW = "2026-01-01T00:00:00Z"
CALM = Policy(mode=Mode.OFF)
WISH = Wish(policy=CALM, reason="VerificationPolicy calm")
OURS = Layer(policy=CALM, author="dspark-operator", reason=WISH.reason)
THEIRS = Layer(policy=Policy(cap=8), author="ada", reason="a peak")
OVERRIDE = Layer(policy=Policy(cap=4), author="ada", reason="a peak", until_unix_s=1_800_000_000.0)
OLD = Layer(policy=Policy(floor=1), author="dspark-operator", reason=WISH.reason)


@pytest.mark.parametrize(
    ("wish", "layers", "act"),
    [
        (WISH, (), Act.SET),
        (WISH, (OURS,), Act.NOTHING),
        (WISH, (OLD,), Act.SET),
        (WISH, (THEIRS,), Act.SET),
        (WISH, (OURS, OVERRIDE), Act.NOTHING),
        (WISH, (OLD, OVERRIDE), Act.WAIT),
        (WISH, (OVERRIDE,), Act.WAIT),
        (Wish(policy=CALM, reason="another"), (OURS,), Act.SET),
        (None, (), Act.NOTHING),
        (None, (OURS,), Act.CLEAR),
        (None, (THEIRS,), Act.NOTHING),
        (None, (OURS, OVERRIDE), Act.WAIT),
        (None, (OVERRIDE,), Act.NOTHING),
    ],
)
def test_what_is_done_follows_from_what_is_asked_and_what_is_held(
    wish: Wish | None, layers: tuple[Layer, ...], act: Act
) -> None:
    assert next_act(wish, Held(version=7, layers=layers)) is act


LAYER = st.sampled_from([OURS, OLD, THEIRS])


@given(
    st.one_of(st.none(), st.just(WISH)),
    st.lists(LAYER, max_size=1),
    st.lists(st.just(OVERRIDE), max_size=3),
)
def test_an_override_is_never_ended_and_every_change_settles(
    wish: Wish | None, base: list[Layer], overrides: list[Layer]
) -> None:
    held = Held(version=1, layers=(*base, *overrides))
    act = next_act(wish, held)
    if overrides:
        assert act in (Act.NOTHING, Act.WAIT)
        return
    after = {
        Act.NOTHING: held.layers,
        Act.SET: (OURS,),
        Act.CLEAR: (),
    }[act]
    assert next_act(wish, Held(version=2, layers=after)) is Act.NOTHING


def manifest(name: str = "calm", *, age: int = 0, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "generation": 3,
            "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z",
        },
        "spec": {"serviceName": "llm", **spec},
    }


def test_the_example_of_the_documentation_is_valid() -> None:
    (written,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/kubernetes.md").read_text(), re.M | re.S
    )
    document = yaml.safe_load(written)
    assert document["kind"] == "VerificationPolicy"
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
        (claim,) = claims([manifest(mode="Pinned", draftTokens=4, reason="a test", **more)],
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
    (claim,) = claims([manifest(**spec)], two_groups())
    assert claim.refusal is not None
    assert claim.refusal.reason == reason
    assert message in claim.refusal.message
    assert claim.units == ()


def test_of_two_manifests_for_the_same_verifiers_the_older_one_counts() -> None:
    young = manifest("a", age=9, poolName="verifier", groupName="more")
    old = manifest("z", age=1)
    first, second = claims([young, old], two_groups())
    assert (first.name, first.units) == ("z", ("verifier-big", "verifier-more"))
    assert second.refusal is not None
    assert (second.refusal.reason, second.units) == ("Conflicted", ())
    assert "the older z" in second.refusal.message


def test_without_its_service_a_manifest_is_in_force_nowhere() -> None:
    told = _told(manifest(), None, {})
    assert set(told.values()) == {("False", "ServiceMissing")}


def _told(
    document: dict[str, Any], of: Any, outcomes: dict[str, Outcome]
) -> dict[str, tuple[str, str]]:
    (claim,) = claims([document], of)
    status: Any = policy_status(claim, outcomes, {}, timestamp=NOW)
    assert status["observedGeneration"] == 3
    assert all(c["observedGeneration"] == 3 for c in status["conditions"])
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


@pytest.mark.parametrize(
    ("outcome", "ready", "in_force"),
    [
        (Outcome(held=Held(version=1, layers=(OURS,))), ("True", "Applied"), ("True", "InForce")),
        (
            Outcome(held=Held(version=2, layers=(OURS, OVERRIDE))),
            ("True", "Applied"),
            ("False", "Overridden"),
        ),
        (
            Outcome(act=Act.WAIT, held=Held(version=2, layers=(OVERRIDE,))),
            ("False", "WaitingForOverride"),
            ("False", "Overridden"),
        ),
        (
            Outcome(problem="timed out"),
            ("Unknown", "ControllerUnknown"),
            ("Unknown", "ControllerUnknown"),
        ),
    ],
)
def test_status_says_who_wins(
    outcome: Outcome, ready: tuple[str, str], in_force: tuple[str, str]
) -> None:
    told = _told(manifest(mode="Off"), service(small()), {"verifier-big": outcome})
    assert told == {"Accepted": ("True", "Valid"), "Ready": ready, "InForce": in_force}


def test_an_override_is_told_with_its_author_and_its_end() -> None:
    (claim,) = claims([manifest(mode="Off")], service(small()))
    held = Held(version=5, layers=(OURS, OVERRIDE))
    status: Any = policy_status(claim, {"verifier-big": Outcome(held=held)}, {}, timestamp=NOW)
    (in_force,) = [c for c in status["conditions"] if c["type"] == "InForce"]
    assert in_force["message"] == (
        "verifier-big: ada set auto, cap 4 until 2027-01-15T08:00:00Z: a peak"
    )
    assert status["pools"] == [
        {
            "name": "verifier-big",
            "policy": "auto, cap 4",
            "version": 5,
            "overriddenBy": "ada",
            "overriddenUntil": "2027-01-15T08:00:00Z",
        }
    ]
    again: Any = policy_status(
        claim, {"verifier-big": Outcome(held=held)}, status, timestamp="2026-02-02T00:00:00Z"
    )
    assert again == status, "nothing changed, so nothing is written"


@given(
    mode=st.sampled_from(["Auto", "Pinned", "Off", "VerifyAll"]),
    bounds=st.fixed_dictionaries(
        {},
        optional={
            "draftTokens": st.integers(0, 3),
            "floor": st.integers(0, 3),
            "cap": st.integers(0, 3),
            "activationSessions": st.integers(1, 3),
            "groupName": st.just("big"),
            "poolName": st.just("verifier"),
            "shadow": st.booleans(),
        },
    ),
)
def test_a_spec_that_is_taken_is_a_policy(mode: str, bounds: dict[str, Any]) -> None:
    """The spec's own checks leave nothing for the controller to refuse."""
    try:
        spec = parse_policy({"spec": {"serviceName": "llm", "mode": mode, **bounds}})
    except SpecError as error:
        assert str(error).startswith("spec: ")  # noqa: PT017  # both ways are legal here
        return
    assert spec.policy().shadow is bounds.get("shadow", False)
