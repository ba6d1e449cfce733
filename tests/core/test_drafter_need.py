"""How many drafters the verifiers' rounds are worth."""

from dataclasses import replace

from dspark.core.curve import Curve
from dspark.core.drafter_need import drafters_needed
from dspark.core.fleet import Member, Role
from dspark.core.ids import Epoch, PoolName, Term
from dspark.core.issue import Evidence, issue
from dspark.core.need import Need, Scaling
from dspark.core.policy import DEFAULT_POLICY, Mode, PlanSettings, Policy, Rules
from dspark.core.reservoir import pool_survivals
from tests.fleet_examples import a_curve, a_member

SETTINGS = PlanSettings(min_samples=8, max_cohorts=1, rules=Rules(activation_sessions=1))
SCALING = Scaling(min_replicas=0, max_replicas=8)
VERIFY = a_curve({1: 0.100, 32: 0.110}, sessions=(1, 4, 8))


def drafting(first_s: float, token_s: float) -> Curve:
    return a_curve(
        {tokens: first_s + token_s * tokens for tokens in (3, 6, 12, 24, 48, 96)},
        version="drafter", sessions=(1, 2, 4, 8, 16, 32),
    )  # fmt: skip


CHEAP, FAIR, DEAR = drafting(0.001, 0.00003), drafting(0.001, 0.0002), drafting(0.002, 0.001)


def need(
    verifiers: int,
    curve: Curve | None,
    *,
    sessions: int = 8,
    drafters: list[Member] | None = None,
    policy: Policy = DEFAULT_POLICY,
    stopped: str | None = None,
    seen_round_s: float = 0.0,
) -> Need | None:
    members = [
        a_member(f"v{i}", active=sessions, draft_round_s=seen_round_s) for i in range(verifiers)
    ]
    known = Evidence(
        curve=VERIFY, members=members, acceptance=pool_survivals([(0.9, 0.8, 0.7)] * 8),
        drafter_curve=curve, stopped=stopped,
    )  # fmt: skip
    key = (PoolName("verifier"), "curve")
    issued = issue(key, known, None, SETTINGS, term=Term(1), epoch=Epoch(1), now_s=0.0,
                   policy=policy)  # fmt: skip
    return drafters_needed({key: (known, issued)}, drafters or [], SCALING, SETTINGS)


def counted(found: Need | None) -> int:
    assert found is not None
    return found.fewest


def busy_drafter(name: str, *, sessions: int, step_s: float, queue_s: float) -> Member:
    member = a_member(name, Role.DRAFTER)
    assert member.load is not None
    load = replace(
        member.load, steps=10, batch_tokens=10 * 3 * sessions, step_s=10 * step_s, queue_s=queue_s
    )
    return replace(member, load=load)


def test_the_ratio_follows_the_cost_of_drafting_and_not_the_number_of_requests() -> None:
    assert counted(need(1, CHEAP)) == 1
    # Four times the requests, hidden behind four times the verifying: still one.
    assert counted(need(4, CHEAP)) == 1
    assert counted(need(4, DEAR)) > counted(need(1, DEAR)) > 1


def test_one_that_is_measured_slower_than_its_curve_counts_as_slow() -> None:
    as_profiled = busy_drafter("d0", sessions=8, step_s=0.0058, queue_s=0.0)
    slow = busy_drafter("d0", sessions=8, step_s=0.0300, queue_s=0.0)
    waiting = busy_drafter("d0", sessions=8, step_s=0.0058, queue_s=0.060)
    counts = [counted(need(1, FAIR, drafters=[one])) for one in (as_profiled, slow, waiting)]
    assert counts[0] == 1
    assert counts[1] > 1
    assert counts[2] > 1


def test_a_long_wire_is_not_mended_by_more_drafters() -> None:
    here = busy_drafter("d0", sessions=8, step_s=0.0058, queue_s=0.0)
    assert counted(need(1, FAIR, drafters=[here], seen_round_s=0.080)) == 1


def test_nobody_to_draft_for_needs_nobody() -> None:
    assert counted(need(2, CHEAP, sessions=0)) == 0
    assert counted(need(2, CHEAP, policy=Policy(mode=Mode.OFF))) == 0
    assert counted(need(2, CHEAP, stopped="the guard tripped")) == 0
    assert drafters_needed({}, [], SCALING, SETTINGS) is None


def test_where_drafting_does_not_pay_one_is_kept_for_probes() -> None:
    assert counted(need(2, drafting(5.0, 0.1))) == 1


def test_a_drafter_that_was_never_seen_is_worth_one() -> None:
    assert counted(need(2, None)) == 1
