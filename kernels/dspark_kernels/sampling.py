"""Choosing tokens: greedy, or coupled to keyed noise.

Coupled sampling (arXiv 2408.07978): the token at a position is argmin_v E_v / p_v, where E is
exponential noise that depends on (seed, choice, position, token id) alone.  That is an exact
sample of p; and since target and drafter use the same E, they agree often, whatever the
drafter is.  A row's result never depends on other rows: elementwise functions run over rows
padded to whole vectors, in blocks too small to be split over threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dspark_kernels.filters import filter_logits
from dspark_kernels.noise import LANES, exponential_noise, serial_blocks

GREEDY_TEMPERATURE = 1e-5
"""Below this a row is greedy."""


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

    @classmethod
    def greedy(cls, positions: Sequence[int]) -> "SamplingBatch":
        """Rows that take the likeliest token."""
        count = len(positions)
        nothing, none = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
        return cls(
            temperatures=nothing,
            seeds=none,
            choices=none,
            positions=torch.tensor(positions, dtype=torch.int64),
            top_k=none,
            top_p=torch.ones(count),
            min_p=nothing,
        )

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
    for block in serial_blocks(weights):
        block.exp_()
    race = torch.div(noise, used, out=used)
    return torch.from_numpy(race.numpy().argmin(axis=-1))


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
