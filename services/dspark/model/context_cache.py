"""A drafting session's cache: keys and values of its context rows, in every draft layer."""

from collections import deque
from collections.abc import Hashable

import torch

from dspark.core.sampling import Sampling

FIRST_ROWS = 128
"""Rows that a new cache has room for; it doubles when it is full."""


class ContextCache:
    """Context of one session; mutable.

    Rows that arrived but were not run yet are pending: they run together with the next block,
    so that a round is one pass and not two.

    Attributes:
        key: The session.
        sampling: How its tokens are chosen.
        run: Rows whose keys and values are here.
        pending: Rows [n, D] to run, in order.
    """

    __slots__ = ("_room", "key", "kv", "num_pending", "pending", "run", "sampling")

    def __init__(self, key: Hashable, sampling: Sampling) -> None:
        self.key = key
        self.sampling = sampling
        self.run = 0
        self.pending: deque[torch.Tensor] = deque()
        self.num_pending = 0
        self._room = 0
        self.kv: torch.Tensor | None = None

    @property
    def cached(self) -> int:
        """Rows received: positions 0 .. cached - 1."""
        return self.run + self.num_pending

    def add(self, rows: torch.Tensor) -> None:
        """Queue rows [n, D] that follow the cached ones."""
        self.pending.append(rows)
        self.num_pending += rows.shape[0]

    def take(self) -> list[torch.Tensor]:
        """Take the pending rows; the caller writes their keys and values from ``run`` on."""
        taken = list(self.pending)
        self.pending.clear()
        self.num_pending = 0
        return taken

    def make_room(self, rows: int, layers: int, heads: int, width: int) -> torch.Tensor:
        """Keys and values [layers, 2, heads, >= rows, width]; what was there stays."""
        if self.kv is None or rows > self._room:
            room = max(FIRST_ROWS, self._room)
            while room < rows:
                room *= 2
            grown = torch.empty(layers, 2, heads, room, width)
            if self.kv is not None:
                grown[..., : self.run, :] = self.kv[..., : self.run, :]
            self.kv, self._room = grown, room
        return self.kv
