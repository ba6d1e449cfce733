from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from dspark.bench.arms import parse_arm
from dspark.bench.policy import FixedPolicy
from dspark.core.budget import ALL, OFF, Budget, ContextBucket
from dspark.core.fleet import Fleet, Member, Pool, Role
from dspark.core.ids import Epoch, PoolName, Term
from tests.fleet_examples import a_replica, a_report

OFF_ARM, FIXED, OTHER, ADAPTIVE = map(parse_arm, ("off", "fixed:2", "fixed:7", "adaptive"))


class World:
    """One pool: a changed policy is in its budget at once, and at its verifier a poll later."""

    def __init__(self, *, follows: bool = True) -> None:
        self.calls: list[tuple[str, str, str, dict[str, Any]]] = []
        self.epoch = self.seen = 5
        self.entry = OFF
        self.now_s = 0.0
        self.follows = follows
        self.switch = FixedPolicy(self, self.fleet, sleep=self.sleep, clock=lambda: self.now_s)

    def change(
        self,
        method: str,
        pool: str,
        *,
        path: str = "",
        body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        self.calls.append((method, pool, path, dict(body or {})))
        self.epoch += 1
        self.entry = ALL if method == "PUT" else OFF
        return {"change": {"change": 40 + len(self.calls)}}

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.follows:
            self.seen = self.epoch

    def fleet(self) -> Fleet:
        replica = a_replica("v", Role.VERIFIER)
        report = replace(a_report("v", active=1), budget_epoch=Epoch(self.seen))
        budget = Budget(
            pool=replica.pool,
            term=Term(1),
            epoch=Epoch(self.epoch),
            ttl_s=5.0,
            curve_version="",
            buckets=(ContextBucket(max_context_tokens=100, draft_tokens=(self.entry,)),),
        )
        pool = Pool(
            name=PoolName(replica.pool),
            role=Role.VERIFIER,
            wanted_replicas=1,
            ready_replicas=1,
            budget=budget,
        )
        return Fleet(
            term=Term(1), version=1, members=(Member(replica=replica, load=report),), pools=(pool,)
        )


def test_fixed_arms_run_under_verify_all_until_another_arm_is_next() -> None:
    world = World()
    for arm in (OFF_ARM, FIXED, OTHER, ADAPTIVE, ADAPTIVE):
        world.switch.prepare(arm)
        assert world.seen == world.epoch  # nothing runs before the verifiers know
        assert world.entry == (ALL if arm.fixed else OFF)
    (put, undone) = world.calls
    assert put[0] == "PUT"
    assert put[3]["policy"] == {"mode": "verify-all"}
    assert put[3]["ttl_s"] > 0  # it ends by itself where the bench is killed
    assert (undone[0], undone[2], undone[3]["change"]) == ("POST", "/rollback", 41)


def test_what_was_put_in_force_is_taken_back_once() -> None:
    world = World()
    world.switch.prepare(FIXED)
    world.switch.restore()
    world.switch.restore()
    assert [call[0] for call in world.calls] == ["PUT", "POST"]


def test_verifiers_that_do_not_follow_are_said() -> None:
    with pytest.raises(ValueError, match="do not follow verify-all after 10 s"):
        World(follows=False).switch.prepare(FIXED)
