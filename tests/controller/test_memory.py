"""What a controller goes on from after a restart."""

import pytest

from dspark.config.controller import ControllerSettings
from dspark.config.scaling import PoolScaling
from dspark.controller.loop import Controller
from dspark.controller.memory import Memory
from dspark.controller.store import MemoryStore, StoreLost
from dspark.core.budget import ALL
from dspark.core.fleet import Role
from dspark.core.ids import PoolName
from dspark.core.issue import Issued
from tests.fleet_examples import a_curve, a_replica, a_report

SETTINGS = ControllerSettings(
    min_samples=8, reservoir_size=16, settle_s=0.0, max_cohorts=1, dwell_s=2.0
)
KNEE = a_curve({1: 0.010, 8: 0.011, 16: 0.040}, sessions=(1, 2, 4))
VERIFIER = (PoolName("verifier"), "curve")


def learn(store: MemoryStore) -> Controller:
    """Return a controller that trims, because it saw what is accepted."""
    controller = Controller(SETTINGS, store)
    controller.register(a_replica("v0", curve=KNEE), 0.0)
    controller.register(a_replica("d0", Role.DRAFTER, curve=a_curve({3: 0.001, 6: 0.002})), 0.0)
    report = a_report("v0", active=4, survivals=[(0.9, 0.8, 0.1)] * 8)
    controller.report(report, 0.0)
    controller.tick(0.0, unix_s=0.0)
    return controller


def entries(issued: Issued) -> tuple[int, ...]:
    return issued.budget.buckets[0].draft_tokens


def test_the_last_budget_is_given_again_before_anything_is_known() -> None:
    store = MemoryStore()
    before = learn(store).plan.issued[VERIFIER]
    assert set(entries(before)) != {ALL}
    controller = Controller(SETTINGS, store)
    controller.register(a_replica("v0", curve=KNEE), 10.0)
    after = controller.tick(10.0, unix_s=0.0).issued[VERIFIER]
    assert entries(after) == entries(before)
    assert after.budget.term > before.budget.term
    assert "as before; 0 of 8 committed rounds are known" in after.budget.reason
    # And once enough is known, by what is known.
    controller.report(a_report("v0", active=4, survivals=[(0.9, 0.9, 0.9)] * 8), 12.0)
    assert "as before" not in controller.tick(13.0, unix_s=0.0).issued[VERIFIER].budget.reason


def test_a_controller_that_never_learned_verifies_everything() -> None:
    controller = Controller(SETTINGS, MemoryStore())
    controller.register(a_replica("v0", curve=KNEE), 10.0)
    assert set(entries(controller.tick(10.0, unix_s=0.0).issued[VERIFIER])) == {ALL}


def test_curves_of_pools_that_are_empty_now_are_known_again() -> None:
    store = MemoryStore()
    learn(store)
    known = Controller(SETTINGS, store).statistics.curves([])
    assert known[VERIFIER] == KNEE
    assert (PoolName("drafter"), "curve") in known


def test_a_pool_that_follows_its_load_goes_on_from_its_last_size() -> None:
    scaling = {"verifier": PoolScaling(max_replicas=8, down_after_s=60, tokens_per_s_per_user=1e6)}
    settings = SETTINGS.model_copy(
        update={"scaling": scaling, "initial_replicas": {"verifier": 1}, "settle_s": 5.0}
    )
    store = MemoryStore()
    first = Controller(settings, store)
    first.register(a_replica("v0", curve=KNEE), 0.0)
    for now_s in (0.0, 1.0, 2.0, 3.0):
        first.report(a_report("v0", active=4, survivals=[(0.9, 0.8, 0.1)] * 8), now_s)
        first.tick(now_s, unix_s=0.0)
    assert first.plan.wanted["verifier"] == 4
    second = Controller(settings, store)
    assert second.tick(10.0, unix_s=0.0).wanted["verifier"] == 4
    # The load has gone meanwhile: not one is given up before the fleet is back and the time over.
    second.register(a_replica("v0", curve=KNEE), 11.0)
    for now_s in (11.0, 20.0, 21.0, 70.0, 90.0):
        second.report(a_report("v0"), now_s)
        second.tick(now_s, unix_s=0.0)
        assert second.plan.wanted["verifier"] == (4 if now_s < 80 else 1)


def test_what_cannot_be_read_is_nothing() -> None:
    store = MemoryStore()
    store.keep_learned('{"curves": "of another version"}')
    assert Memory(store).load().curves == ()


def test_a_lost_store_is_told_later_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()

    def lost(text: str) -> None:
        raise StoreLost("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "keep_learned", lost)
        controller = learn(store)
    assert store.learned() is None
    controller.tick(5.0, unix_s=0.0)
    assert store.learned() is None, "not at every tick"
    controller.tick(10.5, unix_s=0.0)
    assert store.learned() is not None
