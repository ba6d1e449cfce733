"""What the load of verifiers and of prefill replicas asks for."""

from collections.abc import Mapping
from dataclasses import replace

from dspark.core.curve import Curve
from dspark.core.fleet import LoadReport, Member, Role
from dspark.core.ids import Epoch, PoolName, Term
from dspark.core.issue import BudgetKey, Evidence, Issued, issue
from dspark.core.need import Scaling, prefills_needed, verifiers_needed
from dspark.core.policy import PlanSettings, Rules
from dspark.core.reservoir import pool_survivals
from tests.fleet_examples import a_curve, a_member, a_replica

SETTINGS = PlanSettings(min_samples=8, max_cohorts=1, rules=Rules(activation_sessions=1))
SCALING = Scaling(min_replicas=1, max_replicas=8, utilisation=0.5)


def verifier(name: str, *, active: int, waiting: int = 0, used_pages: int = 0) -> Member:
    member = a_member(name, active=active, waiting=waiting)
    assert member.load is not None
    load = replace(member.load, total_pages=100, free_pages=100 - used_pages)
    return replace(member, load=load)


def prefill(name: str, *, done: int, queued: int, busy_s: float = 1.0) -> Member:
    member = a_member(name, Role.PREFILL)
    assert member.load is not None
    load = replace(member.load, prompt_tokens=done, queued_prompt_tokens=queued, step_s=busy_s)
    return replace(member, load=load)


def classes(
    members: list[Member], curve: Curve | None = None
) -> Mapping[BudgetKey, tuple[Evidence, Issued]]:
    key = (PoolName("verifier"), "curve")
    known = Evidence(curve=curve, members=members, acceptance=pool_survivals([(0.9, 0.8, 0.7)] * 8))
    issued = issue(key, known, None, SETTINGS, term=Term(1), epoch=Epoch(1), now_s=0.0)
    return {key: (known, issued)}


def test_pages_in_use_and_those_that_wait_for_them_are_counted() -> None:
    members = [verifier("v0", active=4, waiting=2, used_pages=40)]
    need = verifiers_needed(classes(members), members, SCALING, SETTINGS)
    assert need is not None
    # 60 pages of which a replica is to hold 50.
    assert (need.fewest, need.safe) == (2, 2)
    assert "4 sessions and 2 waiting take 60 pages of 100 a replica" in need.why


def test_what_each_session_is_promised_decides_where_pages_do_not() -> None:
    rows = a_curve({1: 0.010, 4: 0.010, 8: 0.020, 64: 0.200}, sessions=(1, 2, 4, 8, 16))
    members = [verifier("v0", active=16)]
    known = classes(members, rows)
    promised = {
        rate: verifiers_needed(
            known, members, replace(SCALING, tokens_per_s_per_user=rate), SETTINGS
        )
        for rate in (1.0, 100.0, 1e6)
    }
    counts = [need.fewest for need in promised.values() if need is not None]
    # More is promised: fewer share a replica; what no replica can give is not chased for ever.
    assert counts[0] == 2  # as many as the curve reaches, at half of what a replica can
    assert 2 < counts[1] < 16
    assert counts[2] == 16
    by_policy = verifiers_needed(known, members, SCALING, SETTINGS, promised=100.0)
    assert by_policy is not None
    assert by_policy.fewest == counts[1]


def test_a_replica_that_is_pending_or_silent_changes_nothing() -> None:
    members = [verifier("v0", active=4, used_pages=60)]
    silent = Member(replica=a_replica("v1"))
    alone = verifiers_needed(classes(members), members, SCALING, SETTINGS)
    assert verifiers_needed(classes(members), [*members, silent], SCALING, SETTINGS) == alone
    assert verifiers_needed(classes([silent]), [silent], SCALING, SETTINGS) is None


def test_prompts_that_wait_are_to_be_done_in_time() -> None:
    members = [prefill("p0", done=1000, queued=2000)]
    need = prefills_needed(members, replace(SCALING, ttft_s=2.0))
    assert need is not None
    # 1000/s arrive and 1000/s are late, of which a replica is to do 500/s.
    assert (need.fewest, need.rate) == (4, 1000.0)


def test_idle_prefill_keeps_one_and_remembers_how_fast_it_was() -> None:
    idle = [prefill("p0", done=0, queued=0, busy_s=0.0)]
    need = prefills_needed(idle, SCALING, known_rate=1000.0)
    assert need is not None
    assert (need.fewest, need.rate) == (1, 1000.0)
    waking = [prefill("p0", done=0, queued=1500, busy_s=0.0)]
    assert (prefills_needed(waking, SCALING, known_rate=1000.0) or need).fewest == 3
    assert isinstance(idle[0].load, LoadReport)
