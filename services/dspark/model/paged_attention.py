"""The attention function that Hugging Face models call, over the paged pool.

It is registered once under `NAME`; a model loaded with ``attn_implementation=NAME`` calls it
from every attention layer.  What the layers need to know of the step (segments, pools) is in
the thread's current `AttentionStep`, set by `running`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn
from transformers import AttentionInterface

from dspark_kernels.attention import ragged_paged_attention
from dspark_kernels.segments import Segments

NAME = "dspark_paged"

HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "is_causal",
        "past_key_values",
        "position_embeddings",
        "num_items_in_batch",
    }
)
"""Keyword arguments that change nothing here.  Any other one is refused: it would mean an
attention that this function does not compute (gpt_oss passes ``s_aux``, for one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGeometry:
    """What one attention layer keeps for each token, and how it looks back.

    Attributes:
        num_kv_heads: Hkv.
        key_dim: Width of a key head.
        value_dim: Width of a value head.
        sliding_window: Positions seen, None for all.
        softcap: Score cap, None for none.
    """

    num_kv_heads: int
    key_dim: int
    value_dim: int
    sliding_window: int | None
    softcap: float | None

    @property
    def token_elements(self) -> int:
        """Elements of one token's key and value."""
        return self.num_kv_heads * (self.key_dim + self.value_dim)


class AttentionStep(Protocol):
    """What the current step does with a layer's queries, keys and values."""

    def attend(
        self,
        layer: int,
        geometry: LayerGeometry,
        scale: float,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """[T, Hq, Dk], [T, Hkv, Dk], [T, Hkv, Dv] -> [T, Hq, Dv]."""
        ...


_current = threading.local()


@contextmanager
def running(step: AttentionStep) -> Iterator[None]:
    """Make ``step`` the one that this thread's attention layers take part in."""
    previous = getattr(_current, "step", None)
    _current.step = step
    try:
        yield
    finally:
        _current.step = previous


def attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention in Hugging Face's calling convention: [1, H, T, D] in, [1, T, Hq, Dv] out.

    Raises:
        ValueError: The layer asks for an attention that this is not.
    """
    for name, given in others.items():
        if given is not None and name not in HARMLESS:
            raise ValueError(
                f"{type(module).__name__} passes {name!r} to its attention, which is not "
                "supported: this architecture cannot be served"
            )
    if attention_mask is not None or dropout:
        raise ValueError(f"{type(module).__name__} wants a mask or dropout in its attention")
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise ValueError(f"{type(module).__name__} has no layer_idx: it cannot be served")
    step: AttentionStep | None = getattr(_current, "step", None)
    assert step is not None, "a target is run through its TargetRunner only"
    geometry = LayerGeometry(
        num_kv_heads=key.shape[1],
        key_dim=key.shape[3],
        value_dim=value.shape[3],
        sliding_window=sliding_window,
        softcap=softcap,
    )
    output = step.attend(
        layer,
        geometry,
        query.shape[3] ** -0.5 if scaling is None else scaling,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
    )
    return output.unsqueeze(0), None


AttentionInterface.register(NAME, attention_forward)


@dataclass(slots=True, eq=False)
class Probe:
    """A step that only notes which layers call, with what geometry; attends to nothing."""

    layers: dict[int, LayerGeometry] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        geometry: LayerGeometry,
        scale: float,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """Note the geometry; the output is zero."""
        known = self.layers.setdefault(layer, geometry)
        if known != geometry:
            raise ValueError(f"layer {layer} attends twice with different shapes")
        return q.new_zeros(q.shape[0], q.shape[1], geometry.value_dim)


@dataclass(slots=True, eq=False)
class PagedStep:
    """A step over a pool: writes the new keys and values, then attends."""

    segments: Segments
    slots: torch.Tensor
    keys: dict[int, torch.Tensor]
    values: dict[int, torch.Tensor]

    def attend(
        self,
        layer: int,
        geometry: LayerGeometry,
        scale: float,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """See `AttentionStep.attend`."""
        keys, values = self.keys[layer], self.values[layer]
        keys.flatten(0, 1).index_copy_(0, self.slots, k)
        values.flatten(0, 1).index_copy_(0, self.slots, v)
        return ragged_paged_attention(
            q,
            keys,
            values,
            self.segments,
            scale=scale,
            sliding_window=geometry.sliding_window,
            softcap=geometry.softcap,
        )
