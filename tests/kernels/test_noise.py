import numpy as np
import pytest
import torch

from dspark_kernels.noise import exponential_noise, noise_bits


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.int64)


@pytest.mark.parametrize("changed", ["seeds", "choices", "positions"])
def test_noise_depends_on_every_part_of_its_key(changed: str) -> None:
    key = {"seeds": ones(1), "choices": ones(1), "positions": ones(1)}
    first = exponential_noise(**key, vocab_size=1000)
    again = exponential_noise(**key, vocab_size=1000)
    other = exponential_noise(**{**key, changed: ones(1) * 2}, vocab_size=1000)
    assert torch.equal(first, again)
    assert abs(float(torch.corrcoef(torch.cat([first, other]))[0, 1])) < 0.15


def test_noise_is_the_same_integers_on_every_machine() -> None:
    bits = noise_bits(np.array([7, 2**62 + 3]), np.array([0, 2]), np.array([129, 0]), width=4)
    assert bits.tolist() == [
        [4113893860, 2531465734, 3931225050, 1318149890],
        [2685327113, 1124869183, 2382982984, 3183089812],
    ]


def test_noise_is_exponential_and_never_zero_or_infinite() -> None:
    noise = exponential_noise(ones(50), ones(50), torch.arange(50), 4096)
    assert bool((noise > 0).all())
    assert bool(torch.isfinite(noise).all())
    assert abs(float(noise.mean()) - 1.0) < 0.01
    assert abs(float(noise.double().var()) - 1.0) < 0.02
