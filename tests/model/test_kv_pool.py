import numpy as np
import pytest
import torch

from dspark.model.kv_pool import KvPool, as_numpy, as_tensor
from dspark.model.paged_attention import LayerGeometry

LAYER = LayerGeometry(num_kv_heads=2, key_dim=8, value_dim=8, sliding_window=None, softcap=None)


def pool(num_pages: int = 4, rows_dtype: str = "float16") -> KvPool:
    return KvPool(
        {0: LAYER, 1: LAYER},
        num_pages=num_pages,
        page_tokens=4,
        rows_size=6,
        rows_dtype=rows_dtype,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def test_pages_that_do_not_fit_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"num_pages 1000000000000 needs \d+ MiB .* \d+ MiB are"):
        pool(num_pages=10**12)


def test_an_unknown_rows_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="rows_dtype 'int8' is unknown"):
        pool(rows_dtype="int8")


def test_what_is_written_is_read_back() -> None:
    made = pool()
    kv = [np.random.default_rng(layer).random((6, 2, 2, 8), dtype=np.float32) for layer in (0, 1)]
    made.write_kv([2, 0], 1, kv)
    assert all(np.array_equal(a, b) for a, b in zip(made.read_kv([2, 0], 1, 7), kv, strict=True))
    rows = np.ones((3, 6), dtype=np.float16)
    made.write_rows([2, 0], 2, rows)
    assert np.array_equal(made.read_rows([2, 0], 2, 5), rows)
    assert made.page_bytes == 4 * (2 * 32 * 4 + 6 * 2)


def test_wrong_shapes_dtypes_and_positions_are_refused() -> None:
    made = pool()
    with pytest.raises(ValueError, match="where the pool holds"):
        made.write_rows([0], 0, np.ones((3, 6), dtype=np.float32))
    with pytest.raises(ValueError, match="1 layers of KV for a target of 2"):
        made.write_kv([0], 0, [np.ones((1, 2, 2, 8), dtype=np.float32)])
    with pytest.raises(ValueError, match="outside 1 pages"):
        made.read_rows([0], 0, 5)


def test_bfloat16_crosses_numpy_as_bits() -> None:
    tensor = torch.randn(3, 2).bfloat16()
    array = as_numpy(tensor)
    assert array.dtype == np.uint16
    array.flags.writeable = False
    assert torch.equal(as_tensor(array), tensor)


def test_any_stretch_of_rows_is_read_across_pages_and_stays_what_it_was() -> None:
    made = pool()
    rows = np.arange(16 * 6, dtype=np.float16).reshape(16, 6)
    table = [3, 0, 2, 1]
    made.write_rows(table, 0, rows)
    for start in range(17):
        for stop in range(start, 17):
            read = made.read_rows(table, start, stop)
            assert np.array_equal(read, rows[start:stop])
            assert read.shape == (stop - start, 6)
    few = made.read_rows(table, 3, 5)
    made.write_rows(table, 3, np.zeros((2, 6), dtype=np.float16))
    assert np.array_equal(few, rows[3:5])  # a copy: its pages may be another session's soon
