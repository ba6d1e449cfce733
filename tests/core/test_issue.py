from dataclasses import replace

import pytest

from dspark.core.budget import ALL, OFF, verify_all
from dspark.core.curve import Curve
from dspark.core.fleet import Member
from dspark.core.ids import Epoch, PoolName, Term
from dspark.core.issue import Evidence, Issued, issue
from dspark.core.policy import PlanSettings, Rules
from dspark.core.refinement import StepCell
from dspark.core.reservoir import Acceptance, pool_survivals
from tests.fleet_examples import a_curve, a_member

KEY = (PoolName("verifier"), "curve")
GOOD = pool_survivals([(0.9, 0.8, 0.7)] * 8)
POOR = pool_survivals([(0.3, 0.1, 0.0)] * 8)
KNEE = a_curve({1: 10.0, 4: 11.0, 8: 20.0, 16: 80.0})
SETTINGS = PlanSettings(
    ttl_s=5.0, renew_s=1.5, dwell_s=10.0, min_samples=8, max_cohorts=1,
    rules=Rules(activation_sessions=1),
)  # fmt: skip


def decide(
    now_s: float,
    before: Issued | None = None,
    *,
    curve: Curve | None = KNEE,
    acceptance: Acceptance | None = GOOD,
    members: tuple[Member, ...] = (),
    settings: PlanSettings = SETTINGS,
) -> Issued:
    evidence = Evidence(curve=curve, members=members, acceptance=acceptance)
    epoch = Epoch(1 if before is None else before.budget.epoch + 1)
    return issue(KEY, evidence, before, settings, term=Term(3), epoch=epoch, now_s=now_s)


def test_a_budget_carries_its_pool_term_epoch_life_and_curve() -> None:
    budget = decide(0.0).budget
    assert (budget.pool, budget.term, budget.epoch) == ("verifier", 3, 1)
    assert (budget.ttl_s, budget.curve_version) == (5.0, "curve")
    assert "8 committed rounds" in budget.reason


def test_an_unchanged_budget_is_sent_again_before_it_expires() -> None:
    first = decide(0.0)
    assert decide(1.4, first).budget is first.budget
    renewed = decide(1.5, first)
    assert renewed.budget.epoch == 2
    assert renewed.budget.buckets == first.budget.buckets
    assert renewed.considered_s == first.considered_s


def test_a_table_is_left_alone_until_its_dwell_time_is_over() -> None:
    first = decide(0.0)
    early, late = decide(9.0, first, acceptance=POOR), decide(10.0, first, acceptance=POOR)
    assert early.budget.buckets == first.budget.buckets
    assert late.budget.buckets != first.budget.buckets


def test_a_curve_that_turns_out_bad_does_not_wait_for_the_dwell_time() -> None:
    first = decide(0.0)
    assert first.budget.buckets != verify_all()
    distrusted = decide(0.1, first, curve=a_curve({1: 1.0, 9: 1.0}))
    assert distrusted.budget.buckets == verify_all()
    assert "flat" in distrusted.budget.reason


@pytest.mark.parametrize("curve", [None, a_curve({1: 1.0}), a_curve({1: 1.0, 9: 1.001})])
def test_without_a_good_curve_everything_is_verified(curve: Curve | None) -> None:
    assert decide(0.0, curve=curve).budget.buckets == verify_all()


def test_with_too_few_rounds_everything_is_verified() -> None:
    few = pool_survivals([(0.1, 0.0, 0.0)] * 7)
    assert decide(0.0, acceptance=few).budget.buckets == verify_all()
    assert "7 of 8" in decide(0.0, acceptance=few).budget.reason
    assert "0 of 8" in decide(0.0, acceptance=None).budget.reason


def stepping(name: str, step_s: float) -> Member:
    """100 steps of 4 tokens and 2 sessions, at this many seconds each."""
    member = a_member(name, active=2)
    assert member.load is not None
    load = replace(
        member.load, steps=100, batch_tokens=400, step_s=100 * step_s, mean_context_tokens=64
    )
    return replace(member, load=load)


def test_steps_far_from_the_curve_make_it_a_mismatch() -> None:
    assert "mismatched" in decide(0.0, members=(stepping("v0", 60.0),)).budget.reason
    assert "mismatched" in decide(0.0, members=(stepping("v0", 1.0),)).budget.reason
    assert "mismatched" not in decide(0.0, members=(stepping("v0", 22.0),)).budget.reason


def test_one_slow_machine_does_not_condemn_the_class() -> None:
    members = (stepping("v0", 11.0), stepping("v1", 11.0), stepping("v2", 99.0))
    assert "mismatched" not in decide(0.0, members=members).budget.reason


def test_a_draft_round_that_costs_too_much_turns_drafting_off() -> None:
    members = (a_member("v0", active=1, draft_round_s=500.0),)
    budget = decide(0.0, members=members).budget
    assert "does not pay" in budget.reason


def test_good_drafts_at_low_load_are_all_verified() -> None:
    assert decide(0.0).budget.entry(sessions=1, mean_context_tokens=64) == ALL


def test_live_steps_correct_the_curve_that_a_table_is_made_of() -> None:
    """Profiled alone, small steps look cheap and drafting looks dear; live they all cost more."""
    cheap = a_curve({1: 1.0, 4: 1.5, 8: 2.0, 16: 3.0})
    member = a_member("v0", active=1, draft_round_s=2.5)
    assert member.load is not None
    dearer = tuple(
        StepCell(sessions=1, batch_tokens=tokens, steps=256.0, ratio=3.0) for tokens in (1, 4)
    )
    live = replace(member, load=replace(member.load, step_cells=dearer))
    as_profiled = decide(0.0, curve=cheap, members=(member,)).budget.buckets[0]
    as_lived = decide(0.0, curve=cheap, members=(live,)).budget.buckets[0]
    assert (as_profiled.draft_tokens[0], as_lived.draft_tokens[0]) == (OFF, ALL)
