"""A session: one generation, from admission to its last token.

Its phases and the moves between them are a table, so that an impossible move is
an error where it happens and not a symptom later.
"""

from enum import Enum


class Phase(Enum):
    """Where a session stands."""

    WAITING = "waiting"  # in the bounded queue: its pages do not fit yet
    PREFILLING = "prefilling"  # pages reserved; prompt running here or elsewhere
    DECODING = "decoding"  # at least one token committed
    FINISHED = "finished"  # stop token or length
    CANCELLED = "cancelled"  # client gone, or an error


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset({Phase.PREFILLING, Phase.CANCELLED}),
    Phase.PREFILLING: frozenset({Phase.DECODING, Phase.FINISHED, Phase.CANCELLED}),
    Phase.DECODING: frozenset({Phase.FINISHED, Phase.CANCELLED}),
    Phase.FINISHED: frozenset(),
    Phase.CANCELLED: frozenset(),
}


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"


def move(current: Phase, following: Phase) -> Phase:
    """Return ``following``; raise ValueError when the table has no such move."""
    if following not in MOVES[current]:
        raise ValueError(f"a session cannot go from {current.value} to {following.value}")
    return following
