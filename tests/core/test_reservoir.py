import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark.core.admission import SessionDraft, admit_top
from dspark.core.draft import survivals
from dspark.core.ids import ReplicaName, SessionId
from dspark.core.reservoir import Reservoir, pool_survivals

A, B, C = ReplicaName("a"), ReplicaName("b"), ReplicaName("c")


def vectors(start: int, count: int) -> list[tuple[float, ...]]:
    """Vectors that can be told apart: (start,), (start + 1,), ..."""
    return [(float(start + i),) for i in range(count)]


def test_the_newest_are_kept() -> None:
    reservoir = Reservoir(3)
    reservoir.add(A, vectors(0, 5))
    assert reservoir.vectors() == [(2.0,), (3.0,), (4.0,)]


def test_no_replica_crowds_out_another() -> None:
    reservoir = Reservoir(4)
    reservoir.add(A, vectors(0, 2))
    reservoir.add(B, vectors(100, 50))
    assert reservoir.vectors() == [(0.0,), (1.0,), (148.0,), (149.0,)]


def test_what_one_replica_leaves_free_goes_to_the_others() -> None:
    reservoir = Reservoir(5)
    reservoir.add(A, vectors(0, 1))
    reservoir.add(B, vectors(100, 9))
    reservoir.add(C, vectors(200, 9))
    assert reservoir.vectors() == [(0.0,), (107.0,), (108.0,), (207.0,), (208.0,)]


def test_a_departed_replica_fills_only_what_is_left() -> None:
    reservoir = Reservoir(4)
    reservoir.add(A, vectors(0, 4))
    reservoir.depart(A)
    assert reservoir.vectors() == vectors(0, 4)
    reservoir.add(B, vectors(100, 3))
    assert reservoir.vectors() == [(3.0,), (100.0,), (101.0,), (102.0,)]
    assert len(reservoir) == 4


def test_a_reservoir_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="0 vectors"):
        Reservoir(0)


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 9)), max_size=30))
def test_it_never_holds_more_than_its_capacity_and_shares_it(
    batches: list[tuple[ReplicaName, int]],
) -> None:
    reservoir = Reservoir(6)
    given_by = {A: 0, B: 0, C: 0}
    for replica, count in batches:
        mark = 1000.0 * (ord(replica) - ord("a"))
        reservoir.add(replica, [(mark,)] * count)
        given_by[replica] += count
    kept = reservoir.vectors()
    assert len(kept) == len(reservoir) == min(6, sum(given_by.values()))
    for replica, count in given_by.items():
        mark = 1000.0 * (ord(replica) - ord("a"))
        assert kept.count((mark,)) >= min(count, 2)


confidences = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(st.lists(confidences, min_size=1, max_size=5), st.integers(0, 15))
def test_with_the_step_itself_in_the_reservoir_tau_is_exact(
    rows: list[list[float]], k: int
) -> None:
    blocks = [survivals(row) for row in rows]
    lengths = admit_top(
        [SessionDraft(session=SessionId(i), survivals=block) for i, block in enumerate(blocks)], k
    )
    exact = len(blocks) + sum(sum(block[: lengths[SessionId(i)]]) for i, block in enumerate(blocks))
    tau = pool_survivals(blocks).expected_tokens(len(blocks), np.array([k]))
    assert tau[0] == pytest.approx(exact)


@given(st.lists(confidences, min_size=1, max_size=6), st.integers(1, 9))
def test_tau_grows_and_every_further_draft_is_worth_less(
    rows: list[list[float]], sessions: int
) -> None:
    pooled = pool_survivals([survivals(row) for row in rows])
    tau = pooled.expected_tokens(sessions, np.arange(3 * sessions + 1))
    gains = np.diff(tau)
    assert tau[0] == sessions
    assert (gains >= -1e-9).all()
    assert (np.diff(gains) <= 1e-9).all()


def test_means_of_confidences_cannot_be_multiplied() -> None:
    """Half the blocks are certain, half hopeless: survivals stay 0.5, products of means fall."""
    pooled = pool_survivals([(1.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
    assert pooled.expected_tokens(1, np.array([3]))[0] == 2.5
    of_means = 1 + 0.5 + 0.5**2 + 0.5**3
    assert of_means < 2


def test_an_empty_reservoir_expects_no_draft_to_be_accepted() -> None:
    assert list(pool_survivals([]).expected_tokens(2, np.array([0, 5]))) == [2.0, 2.0]
