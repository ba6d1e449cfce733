"""Keyed exponential noise: the same numbers wherever a token of one position is chosen.

The noise depends on (seed, choice, position, token id) alone, by a counter-based generator:
nothing is drawn in order, so target and drafter, a replica and its successor, all have it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

LANES = 64
"""Rows are padded to a multiple of this: the scalar tail of a vectorised function differs."""

SERIAL_ELEMENTS = 32768
"""Elementwise functions of at most this many elements are not split over threads."""

_M1, _M2 = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
_GOLDEN32 = np.uint32(0x9E3779B1)
_GOLDEN64 = np.uint64(0x9E3779B97F4A7C15)


def exponential_noise(
    seeds: torch.Tensor, choices: torch.Tensor, positions: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Exponential noise E(seed, choice, position, v) for v = 0 .. vocab_size - 1.

    The integers behind it are the same on every machine.  They have 32 bits, so that small
    values, which decide the race, are resolved to 2**-32; never 0, never infinite.

    Args:
        seeds: [N] int64.
        choices: [N] int64.
        positions: [N] int64.
        vocab_size: V.

    Returns:
        [N, V] float32, a view of rows padded to whole vectors.
    """
    bits = noise_bits(
        seeds.numpy(), choices.numpy(), positions.numpy(), -(-vocab_size // LANES) * LANES
    )
    # (bits + 1/2) / 2**32, rounded to float32; the clamp keeps the last one below 1.
    uniform = torch.from_numpy(bits.astype(np.float32))
    uniform.add_(0.5).mul_(2.0**-32).clamp_(max=1.0 - 2.0**-24)
    for block in serial_blocks(uniform):
        block.neg_().log1p_().neg_()
    return uniform[:, :vocab_size]


def noise_bits(
    seeds: NDArray[np.int64],
    choices: NDArray[np.int64],
    positions: NDArray[np.int64],
    width: int,
) -> NDArray[np.uint32]:
    """32 mixed bits for each of N keys and ``width`` token ids: [N, width].

    Counter-based: a 64-bit key of (seed, choice, position) is mixed with the token id by two
    rounds of a 32-bit integer hash, half of the key before each.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64 on purpose
        key = _mix64(seeds.astype(np.uint64) + _GOLDEN64)
        key = _mix64(key ^ (choices.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)))
        key = _mix64(key + positions.astype(np.uint64) * _GOLDEN64)
    low = (key & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    high = (key >> np.uint64(32)).astype(np.uint32)[:, None]
    state = np.arange(width, dtype=np.uint32) * _GOLDEN32 + low
    spare = np.empty_like(state)
    _mix32(state, spare)
    state ^= high
    _mix32(state, spare)
    return state


def _mix64(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def _mix32(state: NDArray[np.uint32], spare: NDArray[np.uint32]) -> None:
    """A 32-bit integer hash with low bias, in place."""
    np.right_shift(state, 16, out=spare)
    state ^= spare
    state *= _M1
    np.right_shift(state, 15, out=spare)
    state ^= spare
    state *= _M2
    np.right_shift(state, 16, out=spare)
    state ^= spare


def serial_blocks(padded: torch.Tensor) -> Sequence[torch.Tensor]:
    """Blocks of rows small enough that torch runs elementwise functions on one thread."""
    rows = max(1, SERIAL_ELEMENTS // padded.shape[1])
    return [padded[first : first + rows] for first in range(0, padded.shape[0], rows)]
