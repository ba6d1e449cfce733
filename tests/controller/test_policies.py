from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dspark.controller.open_store import open_store
from dspark.controller.policies import Ask, Conflict, LostRace, Policies
from dspark.controller.store import MAX_CHANGES, MemoryStore, Store
from dspark.core.changes import Action
from dspark.core.ids import PoolName
from dspark.core.policy import DEFAULT_POLICY, Mode, Policy

POOL = PoolName("verifier")


def ask(at_s: float = 0.0, *, expected: int | None = None, dry_run: bool = False) -> Ask:
    return Ask(author="ada", reason="a test", unix_s=at_s, expected=expected, dry_run=dry_run)


def opened(store: Store) -> Policies:
    policies = Policies(store)
    policies.load()
    return policies


def now(policies: Policies, at_s: float = 0.0) -> Policy:
    return policies.in_force(at_s).get(POOL, DEFAULT_POLICY)


def test_a_file_brings_policies_back_with_their_history_and_their_end(tmp_path: Path) -> None:
    where = str(tmp_path / "c.sqlite")
    store = open_store(where)
    first = opened(store)
    first.set(POOL, Policy(mode=Mode.PINNED, draft_tokens=3), ask())
    first.set(POOL, Policy(cap=2, shadow=True), ask(1.0), ttl_s=10.0)
    store.close()
    store = open_store(where)
    second = opened(store)
    assert list(second.history()) == list(first.history())
    assert now(second, 10.9) == Policy(cap=2, shadow=True)
    assert now(second, 11.0) == Policy(mode=Mode.PINNED, draft_tokens=3)
    assert second.roll_back(POOL, ask(5.0)).number == 3
    store.close()


def test_the_end_of_a_life_is_written_down_once() -> None:
    policies = Policies(MemoryStore())
    policies.set(POOL, Policy(cap=2), ask(), ttl_s=10.0)
    assert policies.expire(9.9) == []
    (change,) = policies.expire(10.0)
    assert (change.action, change.author, change.policy) == (
        Action.EXPIRE, "controller", DEFAULT_POLICY,
    )  # fmt: skip
    assert policies.expire(11.0) == []


@pytest.mark.parametrize(
    "act",
    [
        lambda policies, asked: policies.set(POOL, Policy(cap=9), asked),
        lambda policies, asked: policies.clear(POOL, asked),
        lambda policies, asked: policies.roll_back(POOL, asked),
    ],
    ids=["set", "clear", "rollback"],
)
def test_the_loser_of_a_race_changes_nothing(act: Callable[[Policies, Ask], object]) -> None:
    policies = Policies(MemoryStore())
    policies.set(POOL, Policy(cap=1), ask(expected=0))
    with pytest.raises(LostRace, match="at version 1, not 0"):
        act(policies, ask(expected=0))
    assert now(policies) == Policy(cap=1)
    act(policies, ask(expected=1))
    assert policies.version(POOL) == 2


def test_the_end_of_a_life_makes_a_version_too() -> None:
    policies = Policies(MemoryStore())
    policies.set(POOL, Policy(cap=1), ask(), ttl_s=1.0)
    policies.expire(2.0)
    with pytest.raises(LostRace):
        policies.clear(POOL, ask(2.0, expected=1))


def test_a_dry_run_says_what_would_be_and_changes_nothing() -> None:
    policies = Policies(MemoryStore())
    assert policies.set(POOL, Policy(cap=1), ask(dry_run=True)).policy == Policy(cap=1)
    assert policies.version(POOL) == 0
    assert now(policies) == DEFAULT_POLICY


def test_rolling_back_goes_one_change_further_each_time() -> None:
    policies = Policies(MemoryStore())
    for cap in (1, 2, 3):
        policies.set(POOL, Policy(cap=cap), ask())
    undone = [policies.roll_back(POOL, ask()).policy for _ in range(3)]
    assert undone == [Policy(cap=2), Policy(cap=1), DEFAULT_POLICY]
    with pytest.raises(Conflict, match="no change to undo"):
        policies.roll_back(POOL, ask())


def test_a_change_that_has_ended_can_still_be_rolled_back_without_effect() -> None:
    policies = Policies(MemoryStore())
    policies.set(POOL, Policy(cap=1), ask())
    policies.set(POOL, Policy(cap=9), ask(), ttl_s=1.0)
    policies.expire(2.0)
    assert policies.roll_back(POOL, ask(2.0)).policy == Policy(cap=1)


def test_what_has_ended_stays_ended_after_a_rollback() -> None:
    policies = Policies(MemoryStore())
    policies.set(POOL, Policy(cap=1), ask(), ttl_s=5.0)
    policies.clear(POOL, ask(1.0))
    assert policies.roll_back(POOL, ask(9.0)).policy == DEFAULT_POLICY


def test_history_is_bounded_and_no_policy_is_lost_by_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "c.sqlite"))
    policies = opened(store)
    quiet = policies.set(PoolName("quiet"), Policy(cap=7), ask())
    policies.set(POOL, Policy(cap=1), ask())
    store.append(replace(quiet, number=MAX_CHANGES + 1, pool=POOL))
    again = opened(store)
    assert [change.number for change in again.history()] == [MAX_CHANGES + 1, 2]
    assert again.in_force(0.0)[PoolName("quiet")] == Policy(cap=7)
    assert again.set(POOL, Policy(), ask()).number == MAX_CHANGES + 2
    store.close()
