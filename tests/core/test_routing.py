from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dspark.core.fleet import Member, ReplicaState, Role
from dspark.core.ids import ReplicaName
from dspark.core.routing import choose_drafter, choose_prefill, choose_verifier, ready
from tests.fleet_examples import COMPATIBILITY, a_member

KEYS = [f"prompt {i}" for i in range(200)]


def verifiers(loads: list[int]) -> list[Member]:
    return [a_member(f"v{i}", active=load) for i, load in enumerate(loads)]


@given(st.lists(st.integers(0, 20), max_size=5), st.text(max_size=5) | st.none())
def test_the_choice_depends_on_its_arguments_alone_and_not_on_their_order(
    loads: list[int], key: str | None
) -> None:
    members = verifiers(loads)
    choice = choose_verifier(members, affinity_key=key)
    assert choice == choose_verifier(members[::-1], affinity_key=key)
    assert (choice is None) == (not loads)


def test_equal_prefixes_meet_again_while_the_pool_is_calm() -> None:
    loads = [0, 0, 0]
    for _ in range(3):
        choice = choose_verifier(verifiers(loads), affinity_key="the same system prompt")
        assert choice is not None
        loads[int(choice[1:])] += 1
    assert sorted(loads) == [0, 0, 3]


def test_a_busy_replica_loses_its_affinity() -> None:
    home = choose_verifier(verifiers([0, 0]), affinity_key="key")
    loads = [20 if home == "v0" else 0, 20 if home == "v1" else 0]
    away = choose_verifier(verifiers(loads), affinity_key="key")
    assert away is not None
    assert away != home


def test_waiting_sessions_weigh_more_than_active_ones() -> None:
    members = [a_member("v0", active=3), a_member("v1", waiting=2)]
    assert choose_verifier(members) == "v0"


def test_keys_spread_over_the_pool() -> None:
    members = verifiers([0, 0, 0, 0])
    homes = [choose_verifier(members, affinity_key=key) for key in KEYS]
    assert all(homes.count(member.replica.name) > 25 for member in members)


def test_a_replica_that_leaves_moves_only_its_own_keys() -> None:
    members = verifiers([0, 0, 0, 0])
    for key in KEYS:
        before = choose_verifier(members, affinity_key=key)
        after = choose_verifier(members[:3], affinity_key=key)
        assert after == before or before == "v3"


def test_without_a_key_the_least_loaded_takes_it() -> None:
    assert choose_verifier(verifiers([3, 1, 2])) == "v1"


def test_requests_in_flight_count_before_they_are_reported() -> None:
    in_flight = {ReplicaName("v0"): 2}
    assert choose_verifier(verifiers([0, 1]), in_flight=in_flight) == "v1"


def test_a_replica_that_just_failed_is_not_tried_again() -> None:
    assert choose_verifier(verifiers([0, 5]), exclude={ReplicaName("v0")}) == "v1"
    assert choose_verifier(verifiers([0]), exclude={ReplicaName("v0")}) is None


def test_only_ready_replicas_of_the_role_are_chosen() -> None:
    members = [
        a_member("v0", state=ReplicaState.STARTING),
        a_member("v1", state=ReplicaState.DRAINING),
        a_member("p0", Role.PREFILL),
        a_member("v2", active=99),
    ]
    assert choose_verifier(members) == "v2"
    assert choose_prefill(members) == "p0"


def test_a_report_of_draining_counts_before_the_registration_does() -> None:
    member = a_member("v0")
    assert member.load is not None
    leaving = replace(member, load=replace(member.load, state=ReplicaState.DRAINING))
    assert ready([leaving, a_member("v1")], Role.VERIFIER) == [a_member("v1")]


def test_a_drafter_of_another_projection_is_never_chosen() -> None:
    foreign = replace(COMPATIBILITY, projection_id="other")
    members = [
        a_member("d0", Role.DRAFTER, compatibility=foreign),
        a_member("d1", Role.DRAFTER, active=50),
    ]
    assert choose_drafter(members, "projection", {}) == "d1"
    assert choose_drafter(members[:1], "projection", {}) is None


def test_the_drafter_with_fewest_sessions_is_chosen() -> None:
    members = [a_member("d0", Role.DRAFTER, active=2), a_member("d1", Role.DRAFTER, active=1)]
    assert choose_drafter(members, "projection", {}) == "d1"
    assert choose_drafter(members, "projection", {ReplicaName("d1"): 3}) == "d0"
    assert choose_drafter(members, "projection", {}, exclude={ReplicaName("d1")}) == "d0"


def test_verifiers_that_start_together_choose_different_drafters() -> None:
    members = [a_member(f"d{i}", Role.DRAFTER) for i in range(4)]
    chosen = {choose_drafter(members, "projection", {}, caller=f"v{i}") for i in range(30)}
    assert len(chosen) == 4
