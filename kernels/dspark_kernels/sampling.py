"""Choosing tokens: greedy, or coupled to keyed noise.

Coupled sampling (arXiv 2408.07978): the token at a position is argmin_v E_v / p_v, where E is
exponential noise that depends on (seed, choice, position, token id) alone.  That is an exact
sample of p; and since target and drafter use the same E, they agree often, whatever the
drafter is.  A row's result never depends on other rows: elementwise functions run over rows
padded to whole vectors, in blocks too small to be split over threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

GREEDY_TEMPERATURE = 1e-5
"""Below this a row is greedy."""

LANES = 64
SERIAL_ELEMENTS = 32768
"""Elementwise functions of at most this many elements are not split over threads."""

_M1, _M2 = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
_GOLDEN32 = np.uint32(0x9E3779B1)
_GOLDEN64 = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, eq=False)
class SamplingBatch:
    """How each of N rows is sampled; rows with no limits cost nothing for having them.

    Attributes:
        temperatures: [N] float32; below GREEDY_TEMPERATURE the row is greedy.
        seeds: [N] int64.
        choices: [N] int64.
        positions: [N] int64, position of the token that is chosen.
        top_k: [N] int64, 0 for no limit.
        top_p: [N] float32, 1 for no limit.
        min_p: [N] float32, 0 for no limit.
    """

    temperatures: torch.Tensor
    seeds: torch.Tensor
    choices: torch.Tensor
    positions: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    @classmethod
    def of(
        cls,
        *,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        positions: Sequence[int],
        choices: Sequence[int] | None = None,
        top_k: Sequence[int] | None = None,
        top_p: Sequence[float] | None = None,
        min_p: Sequence[float] | None = None,
    ) -> "SamplingBatch":
        """Build from plain sequences of length N; what is absent means no limit."""
        num_rows = len(temperatures)

        def integers(values: Sequence[int] | None) -> torch.Tensor:
            return torch.tensor(values or [0] * num_rows, dtype=torch.int64)

        def floats(values: Sequence[float] | None, neutral: float) -> torch.Tensor:
            return torch.tensor(values or [neutral] * num_rows, dtype=torch.float32)

        batch = cls(
            temperatures=floats(temperatures, 0.0),
            seeds=integers(seeds),
            choices=integers(choices),
            positions=integers(positions),
            top_k=integers(top_k),
            top_p=floats(top_p, 1.0),
            min_p=floats(min_p, 0.0),
        )
        for name in cls.__slots__:
            if getattr(batch, name).shape[0] != num_rows:
                raise ValueError(f"{name} has not {num_rows} rows as temperatures has")
        return batch

    @property
    def sampled(self) -> torch.Tensor:
        """[M] int64: indices of the rows that are not greedy."""
        return torch.nonzero(self.temperatures >= GREEDY_TEMPERATURE).flatten()

    def at(self, rows: torch.Tensor) -> "SamplingBatch":
        """Only the rows at these indices."""
        return SamplingBatch(*(getattr(self, name)[rows] for name in self.__slots__))

    def moved(self, offset: int) -> "SamplingBatch":
        """The same rows, ``offset`` positions later."""
        return SamplingBatch(
            self.temperatures,
            self.seeds,
            self.choices,
            self.positions + offset,
            self.top_k,
            self.top_p,
            self.min_p,
        )


def greedy_tokens(logits: torch.Tensor) -> torch.Tensor:
    """Argmax of each row, the lowest id among equals: [N, V] -> [N] int64."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        # numpy's vectorised argmax is ten times faster than torch's here.
        return torch.from_numpy(logits.detach().numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


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
    for block in _serial_blocks(uniform):
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


def coupled_tokens(
    logits: torch.Tensor, temperatures: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """The token argmin_v E_v / softmax(logits / T)_v of each row.

    The softmax is not normalised (a row's constant decides nothing) but taken relative to the
    row's maximum, so the likeliest token has weight 1 and tokens below exp(-87) of it are
    never chosen.

    Args:
        logits: [N, V]; -inf for what may not be chosen.
        temperatures: [N] float32, at least GREEDY_TEMPERATURE.
        noise: [N, V] of `exponential_noise`.

    Returns:
        [N] int64.
    """
    vocab_size = logits.shape[1]
    weights = torch.empty(logits.shape[0], -(-vocab_size // LANES) * LANES)
    if weights.shape[1] != vocab_size:
        weights[:, vocab_size:] = 0.0
    used = weights[:, :vocab_size]
    torch.sub(logits, logits.amax(dim=1, keepdim=True), out=used)
    used.div_(temperatures[:, None])
    for block in _serial_blocks(weights):
        block.exp_()
    race = torch.div(noise, used, out=used)
    return torch.from_numpy(race.numpy().argmin(axis=-1))


def _serial_blocks(padded: torch.Tensor) -> Sequence[torch.Tensor]:
    """Blocks of rows small enough that torch runs elementwise functions on one thread."""
    rows = max(1, SERIAL_ELEMENTS // padded.shape[1])
    return [padded[first : first + rows] for first in range(0, padded.shape[0], rows)]


def filter_logits(
    logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """Set to -inf what top-k, top-p and min-p leave out; rows with no limit are untouched.

    Limits apply to softmax(logits), so divide by the temperature first.  Top-p is taken of
    what top-k left, min-p of the likeliest token.  Equal logits at a cut are resolved in
    favour of lower ids.

    Args:
        logits: [N, V], already divided by the temperature.
        top_k: [N] int64, 0 for no limit.
        top_p: [N] float32, 1 for no limit.
        min_p: [N] float32, 0 for no limit.

    Returns:
        ``logits`` itself if no row has a limit, else a copy.
    """
    limited = torch.nonzero((top_k > 0) | (top_p < 1.0) | (min_p > 0.0)).flatten().tolist()
    if not limited:
        return logits
    filtered = logits.clone()
    for row in limited:  # one at a time: a row's sums must not depend on other rows
        filtered[row] = _filter_row(
            filtered[row], int(top_k[row]), float(top_p[row]), float(min_p[row])
        )
    return filtered


def _filter_row(logits: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """One row [V]: find how many of the likeliest tokens stay, then cut at the last of them."""
    values = logits.numpy()
    # Values alone are sorted (numpy's vectorised sort); ids are looked up at the cut only.
    ordered = np.sort(values)[::-1]
    keep = len(ordered)
    if 0 < top_k < keep:
        keep = top_k
    if min_p > 0.0:
        floor = ordered[0] + np.float32(np.log(min_p))
        keep = min(keep, max(1, int((ordered[:keep] >= floor).sum())))
    if top_p < 1.0:
        # In float64, of what is kept so far: the smallest prefix with at least this mass.
        mass = np.exp(ordered[:keep].astype(np.float64) - float(ordered[0])).cumsum()
        keep = min(keep, int((mass < top_p * mass[-1]).sum()) + 1)
    if keep == len(ordered):
        return logits
    cut = ordered[keep - 1]
    kept = values > cut
    equal = np.flatnonzero(values == cut)
    kept[equal[: keep - int(kept.sum())]] = True
    result = torch.full_like(logits, float("-inf"))
    mask = torch.from_numpy(kept)
    result[mask] = logits[mask]
    return result


def choose_tokens(logits: torch.Tensor, sampling: SamplingBatch) -> torch.Tensor:
    """The token of each row: argmax where greedy (no noise drawn), coupled elsewhere.

    Args:
        logits: [N, V] float32.
        sampling: N rows.

    Returns:
        [N] int64 on the CPU.
    """
    logits = logits.cpu()
    sampled = sampling.sampled
    if sampled.numel() == 0:
        return greedy_tokens(logits)
    if sampled.numel() == logits.shape[0]:
        return _coupled(logits, sampling)
    tokens = greedy_tokens(logits)
    tokens[sampled] = _coupled(logits[sampled], sampling.at(sampled))
    return tokens


def _coupled(logits: torch.Tensor, sampling: SamplingBatch) -> torch.Tensor:
    noise = exponential_noise(sampling.seeds, sampling.choices, sampling.positions, logits.shape[1])
    scaled = logits / sampling.temperatures[:, None]
    filtered = filter_logits(scaled, sampling.top_k, sampling.top_p, sampling.min_p)
    return coupled_tokens(filtered, torch.ones_like(sampling.temperatures), noise)
