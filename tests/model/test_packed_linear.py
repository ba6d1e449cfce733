from dataclasses import replace

import pytest
import torch
from torch import nn

from dspark.model.packed_linear import PackedGroup, PackedLinear, pack_linears


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (256, 1000), (1280, 256), (40, 7)])
def test_rows_are_independent_of_their_number(inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    linear = PackedLinear(weight, torch.randn(outputs, generator=generator))
    x = torch.randn(200, inputs, generator=generator)
    with torch.inference_mode():
        whole = linear(x)
        for count in (1, 2, 3, 5, 8, 13, 64, 100):
            assert torch.equal(linear(x[50 : 50 + count]), whole[50 : 50 + count]), count


def test_pieces_of_one_size_are_the_last_resort() -> None:
    linear = PackedLinear(torch.randn(40, 24), None)
    x = torch.randn(70, 24)
    with torch.inference_mode():
        expected = linear(x)
        linear._plan = replace(linear._plan, min_rows=16, piecewise=True)
        whole = linear(x)
        torch.testing.assert_close(whole, expected)
        for count in (1, 5, 16, 33):
            assert torch.equal(linear(x[:count]), whole[:count])


def test_plain_linears_are_not_independent() -> None:
    # The negative control: why linears are packed at all.
    weight, x = torch.randn(512, 256), torch.randn(64, 256)
    whole = nn.functional.linear(x, weight)
    assert any(
        not torch.equal(nn.functional.linear(x[:count], weight), whole[:count])
        for count in range(1, 9)
    )


def test_packed_equals_plain() -> None:
    plain = nn.Linear(48, 33)
    packed = PackedLinear(plain.weight, plain.bias)
    x = torch.randn(2, 5, 48)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), plain(x))
        assert packed(x[:, :0]).shape == (2, 0, 33)


def test_a_group_gives_each_member_its_columns_for_any_input() -> None:
    linears = [nn.Linear(32, 16), nn.Linear(32, 8, bias=False), nn.Linear(32, 8)]
    group = PackedGroup(linears)
    first, second = torch.randn(3, 32), torch.randn(3, 32)
    with torch.inference_mode():
        for x, index in ((first, 0), (second, 1), (first, 1), (first, 2), (second, 0)):
            torch.testing.assert_close(group.part(x, index), linears[index](x))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, 32), nn.Linear(16, 32)
        self.down_proj = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down_proj(self.gate_proj(x) * self.up_proj(x))
        return output


def test_every_linear_of_a_model_is_replaced() -> None:
    model = nn.Sequential(_Block(), nn.Linear(16, 4))
    x = torch.randn(5, 16)
    with torch.inference_mode():
        expected = model(x)
        assert pack_linears(model) == 4
        assert not any(type(module) is nn.Linear for module in model.modules())
        torch.testing.assert_close(model(x), expected)
