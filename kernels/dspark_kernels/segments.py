"""Which queries see which keys: the ragged layout of one forward pass.

A forward pass carries the new tokens of several sessions, one after the other.  A session's
keys lie in pages of a shared pool; its token at position i sees positions 0 .. i, or the last
``sliding_window`` of them.  This file turns that into flat index arrays, once per forward pass
and not once per layer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

TILE_ENTRIES = 1 << 16
"""(query head, key) pairs handled at once: scores and indices of a tile stay in cache."""

KEPT_ENTRIES = 1 << 23
"""Up to this many pairs, tiles are kept for the following layers; above, they are rebuilt."""

LANES = 64
"""Scores are padded to a multiple of this: see `Tile.scores`."""


class Tile:
    """A run of query rows with all of their keys (row = token * num_query_heads + head).

    Attributes:
        first_row: First query row.
        num_rows: Query rows.
        key_rows: [E] int32, rows of the pool seen as [slots * kv_heads, head_dim].
        offsets: [num_rows + 1] int32, where each query row's entries begin.
        begins: [num_rows] int64, the same without the end.
        counts: [num_rows] int64, entries of each query row.
        scores: [E rounded up to LANES] float32 scratch.  The padding keeps vectorised
            elementwise functions off their scalar tail, whose last bit differs.
        entries: [E] the used part of ``scores``.
        values: The same as numpy sees it.
    """

    __slots__ = (
        "_pattern",
        "begins",
        "counts",
        "entries",
        "first_row",
        "key_rows",
        "num_rows",
        "offsets",
        "scores",
        "values",
    )

    def __init__(
        self, first_row: int, counts: NDArray[np.int64], key_rows: NDArray[np.int32]
    ) -> None:
        self.first_row = first_row
        self.num_rows = len(counts)
        self.counts = counts
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        self.begins = offsets[:-1]
        self.offsets = torch.from_numpy(offsets.astype(np.int32))
        self.key_rows = torch.from_numpy(key_rows)
        self.scores = torch.zeros(-(-len(key_rows) // LANES) * LANES)
        self.entries = self.scores[: len(key_rows)]
        self.values: NDArray[np.float32] = self.entries.numpy()
        self._pattern: torch.Tensor | None = None

    def pattern(self, num_key_rows: int) -> torch.Tensor:
        """Sparse [num_rows, num_key_rows] whose values are ``entries``; kept between layers."""
        if self._pattern is None or self._pattern.shape[1] != num_key_rows:
            self._pattern = torch.sparse_csr_tensor(
                self.offsets,
                self.key_rows,
                self.entries,
                size=(self.num_rows, num_key_rows),
                check_invariants=False,
            )
        return self._pattern


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The new tokens of several sessions, in the order of the flat batch.

    Attributes:
        slots: For each session, the pool slots (page * page_tokens + offset) of its
            positions 0 .. start + n - 1, int64.
        starts: Position of each session's first new token.
        lengths: Number of new tokens of each session, at least 1.
    """

    slots: tuple[NDArray[np.int64], ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    _tiles: dict[tuple[int, int, int | None], tuple[Tile, ...]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(
        cls,
        block_tables: Sequence[Sequence[int]],
        starts: Sequence[int],
        lengths: Sequence[int],
        *,
        page_tokens: int,
    ) -> "Segments":
        """Build from block tables: page ids of each session, in position order.

        Raises:
            ValueError: A table is too short for its session, or a length is below 1.
        """
        slots = []
        for table, start, length in zip(block_tables, starts, lengths, strict=True):
            stop = start + length
            if length < 1 or start < 0:
                raise ValueError(f"a segment of {length} tokens at {start} is none")
            if len(table) * page_tokens < stop:
                raise ValueError(
                    f"{len(table)} pages of {page_tokens} tokens cannot hold {stop} tokens"
                )
            slots.append(slots_of(table, 0, stop, page_tokens=page_tokens))
        return cls(slots=tuple(slots), starts=tuple(starts), lengths=tuple(lengths))

    @property
    def num_tokens(self) -> int:
        """T: new tokens of all sessions."""
        return sum(self.lengths)

    def new_slots(self) -> torch.Tensor:
        """[T] int64: the slots that the new tokens' keys and values go to."""
        return torch.from_numpy(
            np.concatenate(
                [slots[start:] for slots, start in zip(self.slots, self.starts, strict=True)]
            )
        )

    def positions(self) -> torch.Tensor:
        """[T] int64: positions of the new tokens."""
        return torch.from_numpy(
            np.concatenate(
                [
                    np.arange(start, start + length)
                    for start, length in zip(self.starts, self.lengths, strict=True)
                ]
            )
        )

    def tiles(
        self, num_query_heads: int, num_kv_heads: int, sliding_window: int | None
    ) -> Iterable[Tile]:
        """Tiles of all query rows, in order; kept between layers of the same geometry."""
        key = (num_query_heads, num_kv_heads, sliding_window)
        kept = self._tiles.get(key)
        if kept is not None:
            return kept
        runs = _runs(self, num_query_heads, sliding_window)
        made = (_tile(self, run, num_query_heads, num_kv_heads, sliding_window) for run in runs)
        if len(runs) * TILE_ENTRIES > KEPT_ENTRIES:
            return made
        self._tiles[key] = tiles = tuple(made)
        return tiles


def slots_of(
    block_table: Sequence[int], start: int, stop: int, *, page_tokens: int
) -> NDArray[np.int64]:
    """Pool slots of positions start .. stop - 1: page * page_tokens + offset, int64."""
    first, last = start // page_tokens, -(-stop // page_tokens)
    pages = np.asarray(block_table[first:last], dtype=np.int64)
    slots = (pages[:, None] * page_tokens + np.arange(page_tokens)).reshape(-1)
    return slots[start - first * page_tokens : stop - first * page_tokens]


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive tokens of the flat batch: (session, first key, one past the last key)."""

    first_token: int
    tokens: list[tuple[int, int, int]]


def _runs(segments: Segments, num_query_heads: int, sliding_window: int | None) -> list[_Run]:
    """Cut the batch into runs of whole tokens with about TILE_ENTRIES entries each."""
    runs: list[_Run] = []
    entries = TILE_ENTRIES
    token = 0
    for session, (start, length) in enumerate(zip(segments.starts, segments.lengths, strict=True)):
        for position in range(start, start + length):
            stop = position + 1
            low = 0 if sliding_window is None else max(0, stop - sliding_window)
            size = (stop - low) * num_query_heads
            if entries + size > TILE_ENTRIES:
                runs.append(_Run(first_token=token, tokens=[]))
                entries = 0
            runs[-1].tokens.append((session, low, stop))
            entries += size
            token += 1
    return runs


def _tile(
    segments: Segments,
    run: _Run,
    num_query_heads: int,
    num_kv_heads: int,
    sliding_window: int | None,
) -> Tile:
    counts = np.repeat(
        np.array([stop - low for _, low, stop in run.tokens], dtype=np.int64), num_query_heads
    )
    key_rows = np.empty(int(counts.sum()), dtype=np.int32)
    kv_head = np.repeat(np.arange(num_kv_heads), num_query_heads // num_kv_heads)[:, None]
    base: NDArray[np.int32] | None = None
    current = None
    begin = 0
    for session, low, stop in run.tokens:
        if session != current:
            current = session
            base = (segments.slots[session] * num_kv_heads + kv_head).astype(np.int32)
        assert base is not None
        end = begin + (stop - low) * num_query_heads
        key_rows[begin:end].reshape(num_query_heads, -1)[:] = base[:, low:stop]
        begin = end
    return Tile(run.first_token * num_query_heads, counts, key_rows)
