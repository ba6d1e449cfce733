from dataclasses import replace

import pytest

from dspark.controller.registry import Refused, Registry, ReportOutcome
from dspark.core.fleet import ReplicaState, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName
from tests.fleet_examples import COMPATIBILITY, a_curve, a_replica, a_report

FOREIGN = replace(COMPATIBILITY, projection_id="other")


def registry_with(*names: str) -> Registry:
    registry = Registry(lease_s=3.0)
    for name in names:
        registry.register(a_replica(name), 0.0)
    return registry


def test_a_replica_is_new_once() -> None:
    registry = registry_with()
    assert registry.register(a_replica("v0"), 0.0)
    assert not registry.register(a_replica("v0", curve=a_curve({1: 1.0})), 1.0)
    (member,) = registry.members(1.5)
    assert member.replica.curve is not None
    assert member.seconds_since_report == 0.5


def test_a_new_incarnation_replaces_the_old_and_its_load() -> None:
    registry = registry_with("v0")
    registry.report(a_report("v0", active=7), 1.0)
    assert registry.register(a_replica("v0", incarnation=2), 1.0)
    (member,) = registry.members(1.0)
    assert (member.replica.incarnation, member.load) == (2, None)


def test_a_report_of_a_replaced_process_is_stale_and_renews_nothing() -> None:
    registry = registry_with()
    registry.register(a_replica("v0", incarnation=2), 0.0)
    assert registry.report(a_report("v0", incarnation=1), 2.0)[0] is ReportOutcome.STALE
    assert [gone.name for gone in registry.expire(3.5)] == ["v0"]


def test_reports_renew_the_lease() -> None:
    registry = registry_with("v0", "v1")
    registry.report(a_report("v0"), 2.0)
    assert [gone.name for gone in registry.expire(3.5)] == ["v1"]
    assert registry.report(a_report("v1"), 3.6)[0] is ReportOutcome.UNKNOWN


def test_an_absurd_report_renews_the_lease_but_is_not_believed() -> None:
    registry = registry_with("v0")
    registry.report(a_report("v0", active=1), 1.0)
    outcome, problem = registry.report(a_report("v0", active=9, survivals=[(2.0,)]), 2.0)
    assert outcome is ReportOutcome.ABSURD
    assert "do not fall" in problem
    (member,) = registry.members(4.5)
    assert member.load is not None
    assert member.load.active_sessions == 1
    assert not registry.expire(4.5)


def test_a_report_tells_the_state() -> None:
    registry = registry_with("v0")
    registry.report(a_report("v0", state=ReplicaState.DRAINING), 1.0)
    assert registry.replicas()[0].state is ReplicaState.DRAINING


def test_an_incompatible_replica_is_refused_with_the_field() -> None:
    registry = registry_with("v0")
    with pytest.raises(Refused, match="projection_id: 'projection' in the fleet, 'other'"):
        registry.register(a_replica("d0", Role.DRAFTER, compatibility=FOREIGN), 0.0)
    assert [replica.name for replica in registry.replicas()] == ["v0"]


def test_the_only_verifier_may_come_back_as_another_model() -> None:
    registry = registry_with("v0")
    registry.register(a_replica("d0", Role.DRAFTER), 0.0)
    registry.register(a_replica("v0", incarnation=2, compatibility=FOREIGN), 1.0)
    ((misfit, problem),) = registry.evict_misfits()
    assert misfit.name == "d0"
    assert problem.startswith("projection_id")


def test_a_verifier_outranks_the_prefill_replica_that_came_first() -> None:
    registry = registry_with()
    registry.register(a_replica("p0", Role.PREFILL), 0.0)
    registry.register(a_replica("v0", compatibility=FOREIGN), 0.0)
    assert [misfit.name for misfit, _ in registry.evict_misfits()] == ["p0"]


def test_a_pool_has_one_role() -> None:
    registry = registry_with("v0")
    with pytest.raises(Refused, match="'verifier' is a verifier pool"):
        registry.register(a_replica("d0", Role.DRAFTER, pool="verifier"), 0.0)


def test_a_process_cannot_unregister_its_successor() -> None:
    registry = registry_with()
    registry.register(a_replica("v0", incarnation=2), 0.0)
    name = ReplicaName("v0")
    assert registry.unregister(name, Incarnation(1)) is None
    assert registry.unregister(name, Incarnation(2)) is not None
    assert registry.unregister(name, Incarnation(2)) is None


def test_an_empty_pool_is_still_known() -> None:
    registry = registry_with("v0")
    registry.unregister(ReplicaName("v0"), Incarnation(1))
    assert registry.roles == {PoolName("verifier"): Role.VERIFIER}


def test_the_next_verifier_is_the_standard_when_the_first_has_gone() -> None:
    registry = Registry(lease_s=3.0)
    other = replace(COMPATIBILITY, model="other")
    registry.register(a_replica("v0"), 0.0)
    registry.unregister(ReplicaName("v0"), Incarnation(1))
    registry.register(a_replica("v1", compatibility=other), 0.0)
    assert registry.evict_misfits() == []
    with pytest.raises(Refused, match="model: 'other' in the fleet, 'toy' offered"):
        registry.register(a_replica("v2"), 0.0)
    registry.expire(10.0)
    registry.register(a_replica("v2"), 10.0)
