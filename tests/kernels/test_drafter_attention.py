import torch

from dspark_kernels.drafter_attention import block_attention


def test_every_block_row_sees_all_keys_of_its_own_session() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 7, 4, 16, generator=generator)
    lengths = (9, 40, 7)
    keys = [torch.randn(2, length, 16, generator=generator) for length in lengths]
    values = [torch.randn(2, length, 16, generator=generator) for length in lengths]
    output = block_attention(q, keys, values)
    for session in range(3):
        for head in range(4):
            k, v = keys[session][head // 2], values[session][head // 2]
            weights = torch.softmax(q[session, :, head] @ k.t() / 4.0, dim=-1)
            torch.testing.assert_close(output[session, :, head], weights @ v)
