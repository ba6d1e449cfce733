"""Draft blocks: what a verifier asks of a drafter, and what comes back.

One round asks, for each of its sessions, for up to gamma tokens after an anchor.
Everything is stamped so that an answer can be matched to exactly one question.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.core.sampling import Sampling

Rows = NDArray[np.generic]
"""Projected context rows [n, hidden]: float32, float16, or uint16 holding bfloat16 bits."""


class DraftStatus(Enum):
    """How a drafter answered for one session."""

    OK = "ok"
    NOT_SEEDED = "not_seeded"
    FULL = "full"


class SessionRound(NamedTuple):
    """One session's part of a round.

    A tuple: one is made for every session and round, and a frozen dataclass takes four times as
    long.

    Attributes:
        session: The session.
        base_length: Committed tokens before the anchor; the anchor's position.
        anchor: The last committed token.
        rows_start: Position of the first of ``rows``.
        rows: New context rows [n, hidden]; n may be 0; of one type and width in a round.
        max_tokens: Draft at most this many, 0..gamma; 0 absorbs the rows only.
        opens: Set where this round begins the session, whose rows then start at 0.
    """

    session: SessionId
    base_length: int
    anchor: int
    rows_start: int
    rows: Rows
    max_tokens: int
    opens: Sampling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """All sessions that one verifier wants drafted in one step."""

    number: int
    sessions: Sequence[SessionRound]
    released: Sequence[SessionId] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftBlock:
    """A proposal for one session.

    Attributes:
        session: The session, as asked.
        base_length: As asked: the fence.
        status: Anything but OK comes with no tokens.
        tokens: x_1 .. x_n.
        confidences: c_1 .. c_n, calibrated, in [0, 1].
        laws: q_1 .. q_n, for a session whose drafts are judged by rejection.
    """

    session: SessionId
    base_length: int
    status: DraftStatus
    tokens: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    laws: DraftLaws | None = None

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.confidences):
            raise ValueError(
                f"session {self.session}: {len(self.tokens)} tokens "
                f"but {len(self.confidences)} confidences"
            )
        if self.laws is not None and len(self.laws.counts) != len(self.tokens):
            raise ValueError(
                f"session {self.session}: {len(self.tokens)} tokens "
                f"but {len(self.laws.counts)} laws"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedDraft:
    """A draft and what became of it, for whoever asked to see it.

    Attributes:
        tokens: x_1 .. x_n as proposed.
        confidences: c_1 .. c_n.
        verified: How many the budget admitted to verification: a prefix.
        accepted: How many of those were committed.
    """

    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    verified: int
    accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReply:
    """A drafter's answer to one round."""

    number: int
    incarnation: Incarnation
    blocks: Sequence[DraftBlock] = field(default_factory=tuple)
    draft_s: float = 0.0
    queue_s: float = 0.0
    draining: bool = False


class DraftRequest(NamedTuple):
    """What a block drafter is asked for one session.

    A tuple, as `SessionRound` is.

    Attributes:
        key: The session, unique over all verifiers of this drafter.
        anchor: The last committed token, at position ``base_length``.
        base_length: Cached context rows there must be.
        max_tokens: Draft at most this many, 1..gamma.
    """

    key: Hashable
    anchor: int
    base_length: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """x_1 .. x_n with their calibrated confidences c_1 .. c_n, and q_1 .. q_n where asked for."""

    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    laws: DraftLaws | None = None


def survivals(confidences: Sequence[float]) -> tuple[float, ...]:
    """Return a_k = c_1 * ... * c_k: the chance that the first k drafts are all accepted."""
    return tuple(accumulate(confidences, mul))
