from dataclasses import replace

import pytest

from dspark.core.budget import ALL, DISABLED, OFF, ContextBucket
from dspark.core.curve import Curve
from dspark.core.ids import Epoch, PoolName, Term
from dspark.core.issue import Evidence, issue
from dspark.core.policy import DEFAULT_POLICY, Mode, PlanSettings, Policy, Rules
from dspark.core.prediction import Why, explain, predict
from dspark.core.reservoir import pool_survivals
from tests.fleet_examples import a_curve, a_member

SETTINGS = PlanSettings(min_samples=8, max_cohorts=1, rules=Rules(activation_sessions=1))
KNEE = a_curve({1: 0.010, 8: 0.011, 16: 0.040}, sessions=(1, 2, 4))
STEEP = a_curve({1: 0.010, 8: 0.011, 16: 0.025}, sessions=(1, 2, 4))
FREE = a_curve({1: 0.010, 64: 0.0105}, sessions=(1, 2, 4))


def evidence(curve: Curve | None = KNEE, *, active: int = 4, rounds: int = 8) -> Evidence:
    return Evidence(
        curve=curve,
        members=[a_member("v0", active=active)],
        acceptance=pool_survivals([(0.9, 0.8, 0.7)] * rounds),
    )


def why(known: Evidence, policy: Policy = DEFAULT_POLICY, **changed: int) -> Why:
    settings = replace(SETTINGS, **changed)  # type: ignore[arg-type]
    issued = issue(
        (PoolName("verifier"), "curve"), known, None, settings,
        term=Term(1), epoch=Epoch(1), now_s=0.0, policy=policy,
    )  # fmt: skip
    return explain(known, issued, settings)


def table(entry: int) -> tuple[ContextBucket, ...]:
    return (ContextBucket(max_context_tokens=64, draft_tokens=(entry,)),)


def test_tokens_a_second_are_committed_tokens_over_step_seconds() -> None:
    found = predict(evidence(), table(4), SETTINGS, sessions=4, context_tokens=64)
    assert found is not None
    # 4 of 12 drafts, the best: each of survival 0.9; 8 tokens in 11 ms.
    assert found.accepted_length == pytest.approx((4 + 4 * 0.9) / 4)
    assert found.tokens_per_s == pytest.approx((4 + 4 * 0.9) / 0.011)
    assert found.tokens_per_s_per_user == pytest.approx(found.tokens_per_s / 4)


@pytest.mark.parametrize("entry", [OFF, DISABLED, 0])
def test_without_drafts_one_token_a_session_is_committed(entry: int) -> None:
    found = predict(evidence(), table(entry), SETTINGS, sessions=4, context_tokens=64)
    assert found is not None
    assert (found.accepted_length, found.tokens_per_s) == (1.0, pytest.approx(4 / 0.011))


def test_more_than_is_drafted_is_everything() -> None:
    everything, more = (
        predict(evidence(), table(entry), SETTINGS, sessions=2, context_tokens=64)
        for entry in (ALL, 999)
    )
    assert everything is not None
    assert more == replace(everything, entry=999)


def test_nothing_is_predicted_from_nothing() -> None:
    for known in (evidence(None), evidence(a_curve({1: 1.0, 9: 1.0})), evidence(rounds=0)):
        assert predict(known, table(ALL), SETTINGS, sessions=1, context_tokens=64) is None


def test_two_cohorts_are_predicted_where_they_are_better() -> None:
    slow_drafts = [a_member("v0", active=4, draft_round_s=0.010)]
    known = replace(evidence(a_curve({1: 0.001, 8: 0.008, 16: 0.016})), members=slow_drafts)
    two = replace(SETTINGS, max_cohorts=2)
    one_row = predict(known, table(ALL), SETTINGS, sessions=4, context_tokens=64)
    best = predict(known, table(ALL), two, sessions=4, context_tokens=64)
    assert one_row is not None
    assert best is not None
    assert best.tokens_per_s > one_row.tokens_per_s


def test_why_shows_theta_with_the_planned_entry_at_its_top() -> None:
    found = why(evidence())
    best = max(found.theta, key=lambda point: point[1])[0]
    assert (found.planned, found.entry, found.sessions) == (best, best, 4)
    assert found.binding == "theta: its highest point"
    assert found.off_tokens_per_s == pytest.approx(4 / 0.011)


@pytest.mark.parametrize(
    ("known", "policy", "binding"),
    [
        (evidence(None), DEFAULT_POLICY, "curve: missing"),
        (evidence(rounds=5), DEFAULT_POLICY, "samples: 5 of 8"),
        (evidence(FREE), DEFAULT_POLICY, "none: verifying everything"),
        (evidence(), Policy(cap=1), "policy: cap"),
        (evidence(), Policy(floor=12), "policy: floor"),
        (evidence(), Policy(mode=Mode.OFF), "policy: mode off"),
        (evidence(STEEP), Policy(activation_sessions=5), "activation: below 5"),
    ],
)
def test_the_binding_constraint_is_named(known: Evidence, policy: Policy, binding: str) -> None:
    assert why(known, policy).binding.startswith(binding)


def test_a_cap_above_the_plan_does_not_bind() -> None:
    assert why(evidence(), Policy(cap=999)).binding == "theta: its highest point"
