"""Linear layers whose rows do not depend on how many rows there are.

A matrix product sums in an order that follows its shape, so a plain ``nn.Linear`` gives other
last bits for one row than for eight.  On a CPU in float32 the weights are therefore packed
once for oneDNN, whose rows are independent from some number of rows on; fewer rows are padded
to that number.  The number is found by trying, once for each shape, when a model loads; where
there is none, rows go through in pieces of one fixed size.  The choice depends on the shape
and the machine only, never on timing: two replicas on like machines compute alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as functional
from torch import nn

PROBED_ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 56, 64, 65, 100, 128)
PACK_ROWS = 16
"""Row count that oneDNN lays the packed weights out for; also fits 1 and 256."""

LARGE_WEIGHT = 1 << 22
"""Weights above this many elements are probed with fewer rows: probing costs time."""


class PackedLinear(nn.Module):
    """``x @ weight.T + bias`` in float32 with rows independent of their number."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._bias = bias
        self._plan = plan_for(self.out_features, self.in_features, torch.get_num_threads())
        packed = weight.detach().float().contiguous()
        self._weight = _pack(packed) if self._plan.packed else packed
        self._direct = self._plan.packed and self._plan.min_rows == 1 and not self._plan.piecewise

    @property
    def min_rows(self) -> int:
        """Fewer rows than this are padded."""
        return self._plan.min_rows

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """[n, in_features] -> [n, out_features]: ``forward`` without a module's ceremony."""
        if self._direct and x.shape[0]:
            return _packed_product(x, self._weight, self._bias)
        return self.forward(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        shape = x.shape
        rows = x.reshape(-1, self.in_features)
        num_rows = rows.shape[0]
        if num_rows == 0:
            return x.new_empty(*shape[:-1], self.out_features)
        plan = self._plan
        if plan.piecewise and num_rows > plan.min_rows:
            size = plan.min_rows
            pieces = [self._product(rows[at : at + size]) for at in range(0, num_rows, size)]
            return torch.cat(pieces).view(*shape[:-1], self.out_features)
        return self._product(rows).view(*shape[:-1], self.out_features)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [n, in_features], padded to at least ``min_rows``."""
        num_rows = rows.shape[0]
        missing = self._plan.min_rows - num_rows
        if missing > 0:
            rows = functional.pad(rows, (0, 0, 0, missing))
        result = _apply(rows, self._weight, self._bias, packed=self._plan.packed)
        return result[:num_rows] if missing > 0 else result


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How products of one shape are computed.

    Attributes:
        packed: With weights laid out by oneDNN.
        min_rows: Fewer rows are padded to this number.
        piecewise: More rows go through in pieces of ``min_rows``.
    """

    packed: bool
    min_rows: int
    piecewise: bool = False


@lru_cache(maxsize=256)
def plan_for(out_features: int, in_features: int, num_threads: int) -> Plan:
    """Find packed or plain, and the row count from which rows are independent.

    Args:
        out_features: Columns of the result.
        in_features: Length of the sums.
        num_threads: Torch's threads, which may change how a product is split.
    """
    generator = torch.Generator().manual_seed(out_features * 31 + in_features)
    weight = torch.randn(out_features, in_features, generator=generator)
    most = 256 if weight.numel() <= LARGE_WEIGHT else 64
    x = torch.randn(most, in_features, generator=generator)
    can_pack = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        for packed in (True, False) if can_pack else (False,):
            ready = _pack(weight) if packed else weight
            least = _independent_from(x, ready, packed=packed)
            if least is not None:
                return Plan(packed=packed, min_rows=least)
    # One shape always: twice the time of a decoding step's products, but the same bits.
    return Plan(packed=can_pack, min_rows=PACK_ROWS, piecewise=True)


def _independent_from(x: torch.Tensor, weight: torch.Tensor, *, packed: bool) -> int | None:
    """Smallest row count from which every probed count gives the rows of the largest one."""
    whole = _apply(x, weight, None, packed=packed)
    least = x.shape[0]
    for count in sorted((n for n in PROBED_ROWS if n <= x.shape[0]), reverse=True):
        first = min(3, x.shape[0] - count)
        rows = x[first : first + count].contiguous()
        if not torch.equal(_apply(rows, weight, None, packed=packed), whole[first : first + count]):
            break
        least = count
    return least if least <= PACK_ROWS else None


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)
    return packed


def _apply(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, packed: bool
) -> torch.Tensor:
    if packed:
        return _packed_product(rows, weight, bias)
    return functional.linear(rows, weight, bias)


def _packed_product(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    # The overload itself: looking it up costs as much as a small product.
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
        rows, weight, bias, "none", [], ""
    )
    return result


def joined(linears: Sequence[nn.Linear]) -> PackedLinear:
    """Return linears of one and the same input as one product, their columns side by side."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias for linear in linears]
    bias = None
    if any(b is not None for b in biases):
        bias = torch.cat(
            [
                torch.zeros(linear.out_features) if b is None else b.detach()
                for linear, b in zip(linears, biases, strict=True)
            ]
        )
    return PackedLinear(weight, bias)


class PackedGroup:
    """Several linears of the same input as one product, for fewer and larger calls.

    The members are called one after the other with the same tensor object; the first call
    computes all of them.  A call with another tensor is right too, only not faster.
    """

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._product = joined(linears)
        self._sizes = [linear.out_features for linear in linears]
        self._input: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()

    def part(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Columns of member ``index`` for ``x``."""
        if self._input is not x:
            self._parts = self._product(x).split(self._sizes, dim=-1)
            self._input = x
        part = self._parts[index]
        if index == len(self._sizes) - 1:  # the last member: let go of the tensors
            self._input, self._parts = None, ()
        return part


class GroupMember(nn.Module):
    """Stands where one linear of a `PackedGroup` stood."""

    def __init__(self, group: PackedGroup, index: int, linear: nn.Linear) -> None:
        super().__init__()
        self._group = group
        self._index = index
        self.in_features = linear.in_features
        self.out_features = linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self._group.part(x, self._index)


GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Linears that the known architectures apply to one and the same input, in this order."""


def pack_linears(model: nn.Module) -> int:
    """Replace every ``nn.Linear`` below ``model`` in place; return how many.

    Only for models on the CPU in float32; the caller sees to that.
    """
    count = 0
    for parent in list(model.modules()):
        children = dict(parent.named_children())
        for names in GROUPS:
            linears = [children.get(name) for name in names]
            found = [linear for linear in linears if type(linear) is nn.Linear]
            if len(found) == len(names) and len({linear.in_features for linear in found}) == 1:
                group = PackedGroup(found)
                for index, (name, linear) in enumerate(zip(names, found, strict=True)):
                    setattr(parent, name, GroupMember(group, index, linear))
                    children.pop(name)
                    count += 1
        for name, child in children.items():
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child.weight, child.bias))
                count += 1
    return count
