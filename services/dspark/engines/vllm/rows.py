"""Kept context rows, under vLLM's KV slots: one row beside each token's keys and values.

So rows share the life of the KV that they belong to: a prefix-cache hit finds them, a preempted
request loses them, and nothing has to be freed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dspark.core.draft import Rows

Slots = NDArray[np.int64]


def slots_of(block_ids: Sequence[int], block_tokens: int, start: int, stop: int) -> Slots:
    """Return the KV slots of positions start .. stop - 1 of a request with these blocks."""
    positions = np.arange(start, stop, dtype=np.int64)
    first, last = start // block_tokens, (stop - 1) // block_tokens + 1
    blocks = np.asarray(block_ids[first:last], dtype=np.int64)
    slots: Slots = blocks[positions // block_tokens - first] * block_tokens
    slots += positions % block_tokens
    return slots


class RowStore:
    """Rows by slot, in host memory (claimed from the system only as slots are used).

    Args:
        num_slots: Tokens that vLLM's KV cache holds.
        width: D.
        dtype: Element type; uint16 holds bfloat16 bits.
    """

    def __init__(self, num_slots: int, width: int, dtype: np.dtype[np.generic]) -> None:
        self._rows: Rows = np.zeros((num_slots, width), dtype=dtype)
        self._known = np.zeros(num_slots, dtype=np.bool_)

    def write(self, slots: Slots, rows: Rows) -> None:
        """Keep rows [n, D] of n slots."""
        self._rows[slots] = rows
        self._known[slots] = True

    def forget(self, slots: Slots) -> None:
        """These slots got new keys and values, but no rows."""
        self._known[slots] = False

    def copy(self, source: Slots, target: Slots) -> None:
        """Follow vLLM where it copies KV from slots to slots."""
        self._rows[target] = self._rows[source]
        self._known[target] = self._known[source]

    def has(self, slots: Slots) -> bool:
        """Whether all these slots have rows."""
        return bool(self._known[slots].all())

    def read(self, slots: Slots) -> Rows:
        """Return a copy of the rows [n, D]."""
        return self._rows[slots]
