from dspark.controller.settling import Settling
from dspark.core.fleet import ReplicaState, Role
from dspark.core.ids import PoolName
from tests.fleet_examples import a_member

WANTED = {PoolName("verifier"): 2, PoolName("drafter"): 0}


def test_a_first_start_waits_for_nobody() -> None:
    assert not Settling(0.0).waits([], WANTED, 100.0)


def test_it_waits_until_what_is_wanted_is_ready() -> None:
    settling = Settling(5.0)
    starting = a_member("v1", state=ReplicaState.STARTING)
    assert settling.waits([], WANTED, 100.0)
    assert settling.waits([a_member("v0"), starting], WANTED, 101.0)
    assert not settling.waits([a_member("v0"), a_member("v1")], WANTED, 102.0)


def test_it_does_not_wait_for_ever() -> None:
    settling = Settling(5.0)
    assert settling.waits([], WANTED, 100.0)
    assert settling.waits([], WANTED, 104.9)
    assert not settling.waits([], WANTED, 105.0)


def test_once_over_it_stays_over() -> None:
    settling = Settling(5.0)
    assert not settling.waits([a_member("v0"), a_member("v1")], WANTED, 100.0)
    assert not settling.waits([], WANTED, 100.1)


def test_without_a_verifier_nothing_is_complete() -> None:
    wanted = {PoolName("drafter"): 1}
    assert Settling(5.0).waits([a_member("d0", Role.DRAFTER)], wanted, 100.0)
