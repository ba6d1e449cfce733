from dspark.core.canary import choose_canaries, num_canaries
from dspark.core.fleet import ReplicaState
from tests.fleet_examples import a_member


def test_at_least_one_and_never_all() -> None:
    counts = [num_canaries(replicas, 0.1) for replicas in (0, 1, 2, 9, 20, 1000)]
    assert counts == [0, 0, 1, 1, 2, 100]
    assert num_canaries(3, 0.99) == 2


def test_the_same_ones_are_chosen_while_they_are_there() -> None:
    members = [a_member(f"v{i}") for i in range(8)]
    chosen = choose_canaries(members, 0.25)
    assert len(chosen) == 2
    assert choose_canaries(members[::-1], 0.25) == chosen
    others = [member for member in members if member.replica.name not in chosen]
    without = choose_canaries(others, 0.25)
    assert len(without) == 2
    assert not without & chosen


def test_only_those_that_are_ready_are_chosen() -> None:
    members = [a_member(f"v{i}", state=ReplicaState.STARTING) for i in range(4)]
    assert choose_canaries(members, 0.5) == frozenset()
