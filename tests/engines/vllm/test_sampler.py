import pytest
import torch

from dspark.engines.vllm.sampler import expand


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_each_drafted_position_gets_its_requests_value(dtype: torch.dtype) -> None:
    output = torch.full((4,), 77, dtype=dtype)
    values = torch.tensor([3, 5, 0], dtype=dtype)
    expand(output, values, torch.tensor([2, 2, 4], dtype=torch.int32), 0, 1)
    assert output.tolist() == [3, 3, 1, 1]
    assert values.tolist() == [3, 5, 0]
