import numpy as np
import pytest
import torch

from dspark_kernels.noise import exponential_noise
from dspark_kernels.sampling import SamplingBatch, choose_tokens, coupled_tokens, greedy_tokens

LIMIT_8 = 26.12
"""Chi-square quantile 0.999 at 8 degrees of freedom: a correct sampler fails 1 in 1000 seeds."""


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.int64)


def test_coupled_tokens_follow_the_softmax() -> None:
    # 9 tokens, 20,000 positions, one seed; false-alarm rate 0.1 % (LIMIT_8).
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -0.5, 0.2, 1.3, -2.0])
    rows = 20_000
    batch = SamplingBatch.of(
        temperatures=[0.7] * rows, seeds=[11] * rows, positions=list(range(rows))
    )
    tokens = choose_tokens(logits.expand(rows, -1).contiguous(), batch)
    counts = np.bincount(tokens.numpy(), minlength=9)
    law = torch.softmax(logits / 0.7, 0).numpy()
    assert chi_square(counts, law) < LIMIT_8
    # Negative control: exponential noise of a wrong rate shape (squared) must fail.
    noise = exponential_noise(ones(rows) * 11, ones(rows) * 0, torch.arange(rows), 9)
    biased = coupled_tokens(logits.expand(rows, -1), torch.full((rows,), 0.7), noise**2)
    assert chi_square(np.bincount(biased.numpy(), minlength=9), law) > 10 * LIMIT_8


def test_tokens_at_neighbouring_positions_are_independent() -> None:
    # 3 x 3 table of (token at i, token at i + 1): 8 degrees of freedom, false alarm 0.1 %.
    rows = 20_000
    logits = torch.tensor([0.3, -0.2, 0.9]).expand(rows, -1).contiguous()
    batch = SamplingBatch.of(
        temperatures=[1.0] * rows, seeds=[5] * rows, positions=list(range(rows))
    )
    tokens = choose_tokens(logits, batch).numpy()
    law = torch.softmax(logits[0], 0).numpy()
    pairs = np.bincount(tokens[:-1:2] * 3 + tokens[1::2], minlength=9)
    assert chi_square(pairs, np.outer(law, law).ravel()) < LIMIT_8
    # Negative control: noise that ignores the position repeats itself.
    stuck = SamplingBatch.of(
        temperatures=[1.0] * rows,
        seeds=[5] * rows,
        positions=[index // 2 for index in range(rows)],
    )
    tokens = choose_tokens(logits, stuck).numpy()
    pairs = np.bincount(tokens[:-1:2] * 3 + tokens[1::2], minlength=9)
    assert chi_square(pairs, np.outer(law, law).ravel()) > 10 * LIMIT_8


@pytest.mark.parametrize("vocab_size", [64, 1000, 4096])
def test_a_rows_token_and_noise_ignore_the_other_rows(vocab_size: int) -> None:
    rows = 23
    logits = torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(1)) * 3
    batch = SamplingBatch.of(
        temperatures=[0.0 if row % 5 == 0 else 0.8 for row in range(rows)],
        seeds=list(range(rows)),
        positions=list(range(rows)),
        top_k=[0 if row % 3 else 17 for row in range(rows)],
        top_p=[1.0 if row % 4 else 0.8 for row in range(rows)],
    )
    together = choose_tokens(logits, batch)
    noise = exponential_noise(batch.seeds, batch.choices, batch.positions, vocab_size)
    for row in range(rows):
        only = torch.tensor([row])
        alone = batch.at(only)
        assert choose_tokens(logits[only], alone)[0] == together[row]
        assert torch.equal(
            exponential_noise(alone.seeds, alone.choices, alone.positions, vocab_size)[0],
            noise[row],
        )


def test_greedy_rows_take_the_lowest_id_among_equals() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    assert greedy_tokens(logits).tolist() == [1, 0]
    batch = SamplingBatch.of(temperatures=[0.0, 1e-6], seeds=[1, 2], positions=[0, 0])
    assert choose_tokens(logits, batch).tolist() == [1, 0]


def test_filtered_sampling_follows_the_filtered_law() -> None:
    # 3 tokens kept: 2 degrees of freedom, quantile 0.999 is 13.82.
    rows = 8000
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])).expand(rows, -1).contiguous()
    batch = SamplingBatch.of(
        temperatures=[1.0] * rows, seeds=[3] * rows, positions=list(range(rows)), top_k=[3] * rows
    )
    counts = np.bincount(choose_tokens(logits, batch).numpy(), minlength=4)
    assert counts[3] == 0
    assert chi_square(counts[:3], np.array([4, 3, 2]) / 9) < 13.82


def test_a_batch_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds"):
        SamplingBatch.of(temperatures=[1.0, 1.0], seeds=[1], positions=[0, 0])


def test_greedy_rows_need_no_more_than_their_positions() -> None:
    batch = SamplingBatch.greedy([7, 9])
    same = SamplingBatch.of(temperatures=[0.0, 0.0], seeds=[0, 0], positions=[7, 9])
    for name in SamplingBatch.__slots__:
        assert torch.equal(getattr(batch, name), getattr(same, name)), name
        assert getattr(batch, name).dtype == getattr(same, name).dtype, name
    assert batch.sampled.numel() == 0
