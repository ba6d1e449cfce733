"""The pool of pages: keys and values of every layer, and projected context rows beside them.

All of them share one set of page ids, so a session has one block table.  A slot is
page * page_tokens + offset.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from dspark.model.paged_attention import LayerGeometry
from dspark_kernels.segments import slots_of

ROWS_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class KvPool:
    """Paged tensors of one target replica.

    Attributes:
        keys: By layer: [P, page, Hkv, Dk].
        values: By layer: [P, page, Hkv, Dv].
        rows: [P * page, D] projected rows, None without a drafter.
    """

    def __init__(
        self,
        geometry: Mapping[int, LayerGeometry],
        *,
        num_pages: int,
        page_tokens: int,
        rows_size: int,
        rows_dtype: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate everything; ``rows_size`` is D, or 0 for no rows.

        Raises:
            ValueError: Unknown dtype, or the pages do not fit in memory.
        """
        if rows_dtype not in ROWS_DTYPES:
            raise ValueError(
                f"rows_dtype {rows_dtype!r} is unknown: choose one of {', '.join(ROWS_DTYPES)}"
            )
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self._device = device
        self.geometry = dict(geometry)
        rows_type = ROWS_DTYPES[rows_dtype]
        elements = sum(layer.token_elements for layer in geometry.values())
        self.page_bytes = page_tokens * (elements * dtype.itemsize + rows_size * rows_type.itemsize)
        check_memory(num_pages, self.page_bytes, device)
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        for layer, shape in geometry.items():
            for pool, width in ((self.keys, shape.key_dim), (self.values, shape.value_dim)):
                pool[layer] = torch.zeros(
                    num_pages, page_tokens, shape.num_kv_heads, width, dtype=dtype, device=device
                )
        self.rows: torch.Tensor | None = None
        if rows_size:
            self.rows = torch.zeros(
                num_pages * page_tokens, rows_size, dtype=rows_type, device=device
            )

    def _slots(self, block_table: Sequence[int], start: int, stop: int) -> torch.Tensor:
        self._require(block_table, start, stop)
        return torch.from_numpy(slots_of(block_table, start, stop, page_tokens=self.page_tokens))

    def _require(self, block_table: Sequence[int], start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(block_table) * self.page_tokens:
            raise ValueError(f"positions {start}..{stop} are outside {len(block_table)} pages")

    def read_rows(self, block_table: Sequence[int], start: int, stop: int) -> NDArray[np.generic]:
        """Rows [stop - start, D] as kept; bfloat16 as uint16 bits."""
        assert self.rows is not None, "this target has no projection"
        size = self.page_tokens
        if start < stop <= start + size:
            # The few rows of a round lie in a page or two: copying those beats gathering.
            self._require(block_table, start, stop)
            pieces = []
            for index in range(start // size, -(-stop // size)):
                page = block_table[index] * size
                low, high = max(start - index * size, 0), min(stop - index * size, size)
                pieces.append(self.rows[page + low : page + high])
            return as_numpy(torch.cat(pieces))
        return as_numpy(self.rows[self._slots(block_table, start, stop)])

    def write_rows(self, block_table: Sequence[int], start: int, rows: NDArray[np.generic]) -> None:
        """Write rows [n, D] of positions start .. start + n - 1, in the kept dtype.

        Raises:
            ValueError: Another dtype or width.
        """
        assert self.rows is not None, "this target has no projection"
        slots = self._slots(block_table, start, start + rows.shape[0])
        self.rows.index_copy_(0, slots, _like(rows, self.rows, self.rows.shape[1:]))

    def read_kv(
        self, block_table: Sequence[int], start: int, stop: int
    ) -> list[NDArray[np.generic]]:
        """By layer, in order: [stop - start, 2, Hkv, Dh], keys before values."""
        slots = self._slots(block_table, start, stop)
        arrays = []
        for layer in sorted(self.geometry):
            shape = self.geometry[layer]
            if shape.key_dim != shape.value_dim:
                raise ValueError(
                    f"layer {layer} has keys of {shape.key_dim} and values of "
                    f"{shape.value_dim}: its pages cannot be moved between replicas"
                )
            both = (
                self.keys[layer].flatten(0, 1)[slots],
                self.values[layer].flatten(0, 1)[slots],
            )
            arrays.append(as_numpy(torch.stack(both, dim=1)))
        return arrays

    def write_kv(
        self, block_table: Sequence[int], start: int, arrays: Sequence[NDArray[np.generic]]
    ) -> None:
        """Write what `read_kv` gave, elsewhere or here.

        Raises:
            ValueError: Wrong number of layers, shape or dtype.
        """
        if len(arrays) != len(self.geometry):
            raise ValueError(f"{len(arrays)} layers of KV for a target of {len(self.geometry)}")
        slots = self._slots(block_table, start, start + arrays[0].shape[0])
        for layer, array in zip(sorted(self.geometry), arrays, strict=True):
            keys, values = self.keys[layer].flatten(0, 1), self.values[layer].flatten(0, 1)
            both = _like(array, keys, (2, *keys.shape[1:]))
            keys.index_copy_(0, slots, both[:, 0])
            values.index_copy_(0, slots, both[:, 1])


def as_numpy(tensor: torch.Tensor) -> NDArray[np.generic]:
    """A CPU tensor as numpy; bfloat16, which numpy has not, as uint16 bits."""
    tensor = tensor.cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    array: NDArray[np.generic] = tensor.numpy()
    return array


def as_tensor(array: NDArray[np.generic]) -> torch.Tensor:
    """The reverse of `as_numpy`: uint16 is bfloat16; copies what is not writable."""
    if not array.flags.writeable:
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype is torch.uint16 else tensor


def _like(array: NDArray[np.generic], pool: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """``array`` as a tensor of the pool's dtype and device, checked against a row's shape."""
    tensor = as_tensor(array)
    if tensor.dtype != pool.dtype or tuple(tensor.shape[1:]) != tuple(shape):
        raise ValueError(
            f"{tensor.dtype} rows of shape {tuple(tensor.shape[1:])} where the pool holds "
            f"{pool.dtype} of {tuple(shape)}"
        )
    return tensor.to(pool.device)


def check_memory(num_pages: int, page_bytes: int, device: torch.device) -> None:
    """Refuse pages that do not fit in what is free now.

    Raises:
        ValueError: Naming what is asked for, what is free and how many pages would fit.
    """
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = psutil.virtual_memory().available
    wanted = num_pages * page_bytes
    if wanted > available:
        raise ValueError(
            f"num_pages {num_pages} needs {wanted / 2**20:.0f} MiB of {device.type} memory but "
            f"{available / 2**20:.0f} MiB are free: lower num_pages to at most "
            f"{available * 9 // 10 // page_bytes}"
        )
