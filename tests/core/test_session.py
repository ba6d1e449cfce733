from itertools import product

import pytest

from dspark.core.session import MOVES, Phase, move


def test_every_phase_is_in_the_table_and_every_one_can_be_reached() -> None:
    assert set(MOVES) == set(Phase)
    assert set().union(*MOVES.values()) | {Phase.WAITING} == set(Phase)


@pytest.mark.parametrize(("current", "following"), list(product(Phase, Phase)))
def test_a_move_is_made_if_and_only_if_it_is_in_the_table(current: Phase, following: Phase) -> None:
    if following in MOVES[current]:
        assert move(current, following) is following
    else:
        with pytest.raises(ValueError, match=f"from {current.value} to {following.value}"):
            move(current, following)


def test_nothing_follows_an_ended_session() -> None:
    assert not MOVES[Phase.FINISHED] | MOVES[Phase.CANCELLED]
