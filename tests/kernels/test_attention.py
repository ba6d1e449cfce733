import pytest
import torch
import torch.nn.functional as functional

from dspark_kernels.attention import dense_attention, ragged_paged_attention
from dspark_kernels.segments import Segments

PAGE = 16


def pools(num_pages: int, kv_heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_pages + kv_heads + head_dim)
    shape = (num_pages, PAGE, kv_heads, head_dim)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def queries(num_tokens: int, heads: int, head_dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randn(num_tokens, heads, head_dim, generator=generator)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (3, 1, 24), (8, 8, 16)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (40, 3.0)])
def test_it_equals_dense_attention(
    heads: int, kv_heads: int, head_dim: int, window: int | None, softcap: float | None
) -> None:
    keys, values = pools(24, kv_heads, head_dim)
    segments = Segments.of(
        [[3, 0, 7], [5, 1, 2, 9, 11], [4]], [33, 0, 9], [4, 70, 1], page_tokens=PAGE
    )
    q = queries(75, heads, head_dim)
    mine = ragged_paged_attention(
        q, keys, values, segments, scale=0.2, sliding_window=window, softcap=softcap
    )
    theirs = dense_attention(
        q, keys, values, segments, scale=0.2, sliding_window=window, softcap=softcap
    )
    torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (5, 1, 20)])
def test_a_row_does_not_depend_on_the_batch_the_chunk_or_the_pages(
    heads: int, kv_heads: int, head_dim: int, softcap: float | None
) -> None:
    total = 150
    keys, values = pools(64, kv_heads, head_dim)
    q = queries(total, heads, head_dim)
    table = list(range(10))
    other = [int(page) for page in torch.randperm(40)[:10] + 10]
    keys[other], values[other] = keys[table], values[table]
    beside = queries(9, heads, head_dim)

    def run(start: int, length: int, pages: list[int], *, company: bool) -> torch.Tensor:
        tables, starts, lengths = [pages], [start], [length]
        rows = q[start : start + length]
        if company:
            tables, starts, lengths = [[60, 61, 62], pages], [25, start], [9, length]
            rows = torch.cat([beside, rows])
        segments = Segments.of(tables, starts, lengths, page_tokens=PAGE)
        output = ragged_paged_attention(rows, keys, values, segments, scale=0.125, softcap=softcap)
        return output[9:] if company else output

    whole = run(0, total, table, company=False)
    for chunk in (1, 7, 8, 64):
        for pages in (table, other):
            for company in (False, True):
                parts = [
                    run(start, min(chunk, total - start), pages, company=company)
                    for start in range(0, total, chunk)
                ]
                assert torch.equal(torch.cat(parts), whole), (chunk, company)


def test_a_long_prompt_is_cut_into_tiles_without_changing_a_bit() -> None:
    keys, values = pools(70, 2, 16)
    q = queries(1000, 4, 16)
    pages = list(range(64))
    segments = Segments.of([pages], [0], [1000], page_tokens=PAGE)
    assert len(list(segments.tiles(4, 2, None))) > 10
    whole = ragged_paged_attention(q, keys, values, segments, scale=0.25)
    last = Segments.of([pages], [999], [1], page_tokens=PAGE)
    assert torch.equal(ragged_paged_attention(q[999:], keys, values, last, scale=0.25), whole[999:])


def test_the_usual_attention_does_depend_on_the_number_of_queries() -> None:
    # The negative control: were this to pass, the tests above would prove little.
    differing = 0
    for length in (130, 200, 333, 512):
        generator = torch.Generator().manual_seed(length)
        q, k, v = (torch.randn(1, 4, length, 64, generator=generator) for _ in range(3))
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        whole = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        alone = functional.scaled_dot_product_attention(q[:, :, -1:], k, v, attn_mask=mask[-1:])
        differing += not torch.equal(whole[:, :, -1:], alone)
    assert differing > 0


def test_other_dtypes_take_the_dense_path() -> None:
    keys, values = pools(4, 2, 16)
    segments = Segments.of([[1, 2]], [20], [3], page_tokens=PAGE)
    q = queries(3, 4, 16)
    half = ragged_paged_attention(
        q.bfloat16(), keys.bfloat16(), values.bfloat16(), segments, scale=0.25
    )
    assert half.dtype == torch.bfloat16
    exact = ragged_paged_attention(q, keys, values, segments, scale=0.25)
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)


def test_a_wrong_number_of_queries_is_refused() -> None:
    keys, values = pools(2, 1, 16)
    segments = Segments.of([[0]], [3], [2], page_tokens=PAGE)
    with pytest.raises(ValueError, match="3 query tokens for segments of 2"):
        ragged_paged_attention(queries(3, 1, 16), keys, values, segments, scale=1.0)
