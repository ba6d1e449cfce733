"""Sizing: what the controller is asked for follows from the spec and from who asked before."""

import pytest

from dspark_operator.sizing import Wished, next_wish

OURS = Wished(replicas=3, author="dspark-operator")
THEIRS = Wished(replicas=3, author="ada")
NOBODYS = Wished()


@pytest.mark.parametrize(
    ("share", "held", "wish"),
    [
        (3, NOBODYS, OURS),
        (3, THEIRS, OURS),
        (3, OURS, None),
        (0, OURS, Wished(replicas=0, author="dspark-operator")),
        (None, OURS, NOBODYS),
        (None, THEIRS, None),
        (None, NOBODYS, None),
    ],
)
def test_the_spec_wins_while_it_speaks_and_takes_back_only_its_own(
    share: int | None, held: Wished, wish: Wished | None
) -> None:
    assert next_wish(share, held) == wish
