"""Decoders of the Llama family in fewer calls, on the CPU in float32.

Of a small model's step most is not arithmetic but getting to it: modules, hooks, masks that are not
wanted, views.  The mathematics here is the model's own, operation by operation, so every bit of the
result is that of Hugging Face's forward over the same packed products; the arrangement is not.  In
each layer queries, keys and values come from one product and go through one norm and one rotation.
An architecture is taken only if every weight of every layer is one that is known here; the others
run as Hugging Face wrote them.

Legend: T rows of the batch, D hidden, H query heads, N key/value heads, K head width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as functional
from torch import nn

from dspark.model.fast_norm import FastRMSNorm, fast_form, rms_norm
from dspark.model.packed_linear import PackedLinear, joined
from dspark.model.paged_attention import AttentionStep, LayerGeometry
from dspark.model.target_folder import decoder_layers

FAMILY = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
)

_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
_STATIC_ROTATIONS = ("default", "linear", "llama3")
"""Angles that depend on the position alone."""


class LeanDecoder:
    """See the module; made by ``lean_form``.

    Args:
        model: Of the family.
        tap_layers: To be kept.
        geometry: Of each layer's attention.
    """

    def __init__(
        self, model: nn.Module, tap_layers: Sequence[int], geometry: Mapping[int, LayerGeometry]
    ) -> None:
        body = model.get_submodule("model")
        self._embedding: torch.Tensor = body.get_submodule("embed_tokens").weight  # type: ignore[assignment]
        self._layers = [
            _Layer(layer, geometry[index])
            for index, layer in enumerate(decoder_layers(model, len(geometry)))
        ]
        self._norm = _norm(body.get_submodule("norm"))
        head = model.get_submodule("lm_head")
        assert isinstance(head, nn.Linear)
        self._head = PackedLinear(head.weight, head.bias)
        self._rotations = RotationTable(body.get_submodule("rotary_emb"))
        self._kept = frozenset(tap_layers)
        self._taps: dict[int, torch.Tensor] = {}

    def run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        wanted: torch.Tensor,
        step: AttentionStep,
    ) -> torch.Tensor:
        """See `decoder.Decoder`."""
        cos, sin = self._rotations.of(positions)
        x = self._embedding.index_select(0, token_ids)
        self._keep(-1, x)
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            attended = layer.attend(index, x, cos, sin, step)
            if index == last and wanted.shape[0] < x.shape[0]:
                # Nobody reads the other rows of the last layer: a prompt's, but for its last one.
                attended, x = attended.index_select(0, wanted), x.index_select(0, wanted)
            x = layer.finish(x, attended)
            self._keep(index, x)
        return self._head.rows(rms_norm(x, self._norm.weight, self._norm.eps))

    def tap(self, layer: int) -> torch.Tensor:
        """See `decoder.Decoder`."""
        return self._taps[layer]

    def _keep(self, layer: int, x: torch.Tensor) -> None:
        if layer in self._kept:
            self._taps[layer] = x


class _Layer:
    """Weights of one layer, packed."""

    def __init__(self, layer: nn.Module, geometry: LayerGeometry) -> None:
        attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
        self._geometry = geometry
        self._scale = float(attention.scaling)  # type: ignore[arg-type]
        self._qkv = joined([_linear(attention, name) for name in ("q_proj", "k_proj", "v_proj")])
        self._gate_up = joined([_linear(mlp, name) for name in ("gate_proj", "up_proj")])
        self._out, self._down = (
            PackedLinear(linear.weight, linear.bias)
            for linear in (_linear(attention, "o_proj"), _linear(mlp, "down_proj"))
        )
        self._width = geometry.key_dim
        self._kv_heads = geometry.num_kv_heads
        self._heads = _linear(attention, "q_proj").out_features // self._width
        self._input_norm = _norm(layer.get_submodule("input_layernorm"))
        self._mlp_norm = _norm(layer.get_submodule("post_attention_layernorm"))
        self._qk_norm: torch.Tensor | None = None
        if hasattr(attention, "q_norm"):
            q, k = (_norm(attention.get_submodule(name)) for name in ("q_norm", "k_norm"))
            assert q.eps == k.eps
            self._qk_eps = q.eps
            # One norm for queries and keys: a weight for each head, [H + N, K].
            parts = (q.weight.expand(self._heads, -1), k.weight.expand(self._kv_heads, -1))
            self._qk_norm = torch.cat(parts).contiguous()

    def attend(
        self,
        index: int,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        step: AttentionStep,
    ) -> torch.Tensor:
        """Attention of the residual rows x [T, D]: [T, H * K]."""
        width, heads = self._width, self._heads
        qkv = self._qkv.rows(rms_norm(x, self._input_norm.weight, self._input_norm.eps))
        split = (heads + self._kv_heads) * width
        qk = qkv[:, :split].view(-1, heads + self._kv_heads, width)
        if self._qk_norm is not None:
            qk = rms_norm(qk, self._qk_norm, self._qk_eps)
        qk = (qk * cos).add_(qk.roll(width // 2, -1).mul_(sin))
        attended = step.attend(
            index,
            self._geometry,
            self._scale,
            qk[:, :heads],
            qk[:, heads:],
            qkv[:, split:].view(-1, self._kv_heads, width),
        )
        return attended.view(-1, heads * width)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Attention's output and the MLP's added to x [T, D]; x stays as it is."""
        x = self._out.rows(attended).add_(x)
        gate_up = self._gate_up.rows(rms_norm(x, self._mlp_norm.weight, self._mlp_norm.eps))
        gate, up = gate_up.chunk(2, dim=-1)
        output: torch.Tensor = self._down.rows(functional.silu(gate).mul_(up)).add_(x)
        return output


class RotationTable:
    """Cosines and signed sines by position, made once by the model's own rotary module.

    It grows by whole chunks, so that a position's angles never depend on what else is asked.
    """

    def __init__(self, rotary: nn.Module, *, chunk: int = 1024) -> None:
        self._rotary = rotary
        self._chunk = chunk
        self._cos, self._sin = self._made(0)

    def of(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [T, 1, K] each; the first half of a sine's row is negated."""
        highest = int(positions.max()) if positions.numel() else 0
        while highest >= self._cos.shape[0]:
            cos, sin = self._made(self._cos.shape[0])
            self._cos, self._sin = torch.cat([self._cos, cos]), torch.cat([self._sin, sin])
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)

    def _made(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(start, start + self._chunk).unsqueeze(0)
        cos, sin = self._rotary(torch.empty(0), positions)
        signed = sin[0].clone()
        signed[:, : signed.shape[1] // 2].neg_()
        return cos[0].unsqueeze(1).clone(), signed.unsqueeze(1)


def lean_form(
    model: nn.Module, tap_layers: Sequence[int], geometry: Mapping[int, LayerGeometry]
) -> LeanDecoder | None:
    """Return the lean form of a plain model, or None where it is none of the family.

    Args:
        model: As loaded, its linears not packed yet; on the CPU in float32.
        tap_layers: To be kept.
        geometry: Of each layer's attention.
    """
    config = model.config
    rotation = getattr(config, "rope_parameters", None) or {}
    known = (
        type(model).__name__ in FAMILY
        and getattr(config, "hidden_act", None) == "silu"
        and rotation.get("rope_type") in _STATIC_ROTATIONS
        and all(
            _is_known(layer) and each.softcap is None and each.key_dim == each.value_dim
            for layer, each in zip(
                decoder_layers(model, len(geometry)), geometry.values(), strict=True
            )
        )
    )
    return LeanDecoder(model, tap_layers, geometry) if known else None


def _is_known(layer: nn.Module) -> bool:
    """Whether a layer has no weight but those of linears and norms that are known here."""
    for name, module in layer.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in _LINEARS:
            if type(module) is not nn.Linear:
                return False
        elif leaf in _NORMS:
            if fast_form(module) is None:
                return False
        elif list(module.parameters(recurse=False)):
            return False
    return True


def _linear(parent: nn.Module, name: str) -> nn.Linear:
    linear = parent.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear


def _norm(module: nn.Module) -> FastRMSNorm:
    norm = fast_form(module)
    assert norm is not None
    return norm
