"""Reservoir: what was accepted lately, and how many tokens a step of some size would commit.

It keeps whole survival vectors of committed rounds.  Means of confidences cannot be multiplied
into survivals (easy and hard blocks do not average), but pooled survivals can be ranked: a step
of R sessions with K drafts admits about the best K * N / R of N pooled vectors.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dspark.core.ids import ReplicaName


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Acceptance:
    """A reservoir's content, ready for ``expected_tokens``.

    Attributes:
        num_vectors: N, the vectors pooled.
        block_size: gamma, the longest of them.
        best_sums: [M + 1]: sum of the m largest pooled survivals, m = 0 .. M <= N * gamma.
    """

    num_vectors: int
    block_size: int
    best_sums: NDArray[np.float64]

    def expected_tokens(
        self, sessions: int, draft_tokens: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return tau(R, K), the tokens that a step commits, for many K at once.

        tau(R, K) = R + (R / N) * (sum of the K * N / R largest pooled survivals).

        Args:
            sessions: R >= 1 in the step.
            draft_tokens: K >= 0 drafts verified in all.
        """
        if self.num_vectors == 0:
            return np.full(len(draft_tokens), float(sessions))
        share = sessions / self.num_vectors
        pooled = np.interp(draft_tokens / share, np.arange(len(self.best_sums)), self.best_sums)
        return sessions + share * pooled


def pool_survivals(vectors: Sequence[Sequence[float]]) -> Acceptance:
    """Pool survival vectors, each falling and within 0..1."""
    survivals = np.sort(np.fromiter((a for vector in vectors for a in vector), dtype=np.float64))
    return Acceptance(
        num_vectors=len(vectors),
        block_size=max((len(vector) for vector in vectors), default=0),
        best_sums=np.concatenate(([0.0], np.cumsum(survivals[::-1]))),
    )


class Reservoir:
    """The newest vectors of one pool, evenly by replica, so that no replica can flood it.

    Vectors of departed replicas fill only what the present ones leave free.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a reservoir of {capacity} vectors holds nothing")
        self._capacity = capacity
        self._present: dict[ReplicaName, deque[tuple[float, ...]]] = {}
        self._departed: deque[tuple[float, ...]] = deque(maxlen=capacity)
        self._stored = 0  # of those present
        self.added = 0
        """Vectors ever added: who remembers it knows whether anything is new."""

    def add(self, replica: ReplicaName, vectors: Iterable[tuple[float, ...]]) -> None:
        """Append a replica's vectors of committed rounds, newest last."""
        kept = self._present.setdefault(replica, deque(maxlen=self._capacity))
        before = len(kept)
        for vector in vectors:
            kept.append(vector)
            self.added += 1
        self._stored += len(kept) - before
        if self._stored > 2 * self._capacity:
            self._trim()

    def depart(self, replica: ReplicaName) -> None:
        """Note that a replica left; its vectors stay while there is room."""
        gone = self._present.pop(replica, ())
        self._stored -= len(gone)
        self._departed.extend(gone)

    def vectors(self) -> list[tuple[float, ...]]:
        """Return at most the capacity, each replica's share newest last."""
        self._trim()
        present = [vector for kept in self._present.values() for vector in kept]
        room = self._capacity - len(present)
        return [*list(self._departed)[max(len(self._departed) - room, 0) :], *present]

    def __len__(self) -> int:
        return min(self._capacity, self._stored + len(self._departed))

    def _trim(self) -> None:
        """Drop the oldest of those who hold most, until all fit."""
        room, left = self._capacity, len(self._present)
        for kept in sorted(self._present.values(), key=len):
            share = room // left
            while len(kept) > share:
                kept.popleft()
            room -= len(kept)
            left -= 1
        self._stored = sum(len(kept) for kept in self._present.values())
