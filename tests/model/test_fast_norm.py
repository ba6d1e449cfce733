import pytest
import torch
from torch import nn

from dspark.model.fast_norm import FastRMSNorm, replace_norms, rms_norm


class PlainRMSNorm(nn.Module):
    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64))
        self.eps = 1e-6
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight + self.shift) * (x * scale)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_norms_that_compute_the_same_are_replaced(shift: float) -> None:
    model = nn.Sequential(PlainRMSNorm(shift))
    x = torch.randn(5, 64)
    with torch.inference_mode():
        expected = model(x)
        assert replace_norms(model) == 1
        assert isinstance(model[0], FastRMSNorm)
        torch.testing.assert_close(model(x), expected)


def test_norms_that_compute_something_else_stay() -> None:
    model = nn.Sequential(PlainRMSNorm(0.5), nn.LayerNorm(64))
    with torch.inference_mode():
        assert replace_norms(model) == 0


def test_rows_are_independent_of_their_number() -> None:
    x, weight = torch.randn(100, 3, 24), torch.rand(3, 24)
    whole = rms_norm(x, weight, 1e-6)
    for count in (1, 2, 7, 33):
        assert torch.equal(rms_norm(x[:count], weight, 1e-6), whole[:count])
