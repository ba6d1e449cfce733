"""Text of the target's own, with the features a drafter learns from, in dense batches.

Shape legend: S sequences, L tokens, C cached tokens, D hidden, N key/value heads, G query heads
per key/value head, K head width, m tapped layers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3ForCausalLM

from dspark.model.drafter import rotate

Choose = Callable[[Tensor, int], Tensor]
"""(logits [S, V] fp32, position of the token to choose) -> tokens [S]."""


@dataclass(slots=True, kw_only=True)
class DenseCache:
    """Keys and values of all layers [S, N, C_max, K]; ``length`` rows are filled."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0


class DenseTarget:
    """The target over sequences of one common length, reading Hugging Face's own weights."""

    def __init__(
        self, model: Qwen3ForCausalLM, tapped: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> None:
        self._model = model
        self._tapped = tapped
        self._dtype = dtype
        config = model.config
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = config.head_dim
        self._theta = float(config.rope_parameters["rope_theta"])

    def new_cache(self, num_sequences: int, max_length: int) -> DenseCache:
        """Allocate an empty cache."""
        shape = (num_sequences, self._kv_heads, max_length, self._head_dim)
        count = len(self._model.model.layers)
        return DenseCache(
            keys=[torch.zeros(shape, dtype=self._dtype) for _ in range(count)],
            values=[torch.zeros(shape, dtype=self._dtype) for _ in range(count)],
        )

    def forward(self, ids: Tensor, cache: DenseCache) -> tuple[Tensor, Tensor]:
        """Run ids [S, L] after the cached tokens.

        Returns:
            Raw features [S, L, m * D] and the last hidden states [S, L, D] (normed).
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            return self._forward(ids, cache)

    def _forward(self, ids: Tensor, cache: DenseCache) -> tuple[Tensor, Tensor]:
        body = self._model.model
        begin, end = cache.length, cache.length + ids.shape[1]
        positions = torch.arange(begin, end)
        visible = torch.arange(end)[None, :] <= positions[:, None]
        x = body.embed_tokens(ids)
        taps = {-1: x}
        for index, layer in enumerate(body.layers):
            attn = layer.self_attn
            normed = layer.input_layernorm(x)
            split, theta = (-1, self._head_dim), self._theta
            q = rotate(attn.q_norm(attn.q_proj(normed).unflatten(-1, split)), positions, theta)
            k = rotate(attn.k_norm(attn.k_proj(normed).unflatten(-1, split)), positions, theta)
            v = attn.v_proj(normed).unflatten(-1, split)
            cache.keys[index][:, :, begin:end] = k.transpose(1, 2)
            cache.values[index][:, :, begin:end] = v.transpose(1, 2)
            past_k, past_v = cache.keys[index][:, :, :end], cache.values[index][:, :, :end]
            groups = self._heads // self._kv_heads
            q = (
                q.to(self._dtype)
                .view(*ids.shape, self._kv_heads, groups, -1)
                .permute(0, 2, 3, 1, 4)
            )
            flat = q.reshape(q.shape[0], self._kv_heads, groups * ids.shape[1], self._head_dim)
            scores = (flat @ past_k.transpose(-1, -2)).float() * self._head_dim**-0.5
            if ids.shape[1] > 1:
                scores = scores.masked_fill(~visible.repeat(groups, 1), float("-inf"))
            out = (scores.softmax(-1).to(self._dtype) @ past_v).unflatten(2, (groups, -1))
            out = out.permute(0, 3, 1, 2, 4).flatten(2)
            x = x + attn.o_proj(out)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            taps[index] = x
        cache.length = end
        features = torch.cat([taps[i] for i in self._tapped], -1)
        return features, body.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map last hidden states [..., D] to logits [..., V] in fp32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            out: Tensor = F.linear(hidden, self._model.lm_head.weight)
        return out.float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Generated sequences: ids [S, L], features [S, L, m * D], last hidden states [S, L, D]."""

    ids: Tensor
    features: Tensor
    hidden: Tensor


@torch.no_grad()
def generate(target: DenseTarget, prompts: Tensor, length: int, choose: Choose) -> Generated:
    """Continue prompts [S, P] to ``length`` tokens each; an eos does not stop a sequence.

    The last token has features too, so every row can serve as context.
    """
    cache = target.new_cache(prompts.shape[0], length)
    ids = prompts
    features, hidden = target.forward(prompts, cache)
    all_features, all_hidden = [features], [hidden]
    while ids.shape[1] < length:
        token = choose(target.logits(all_hidden[-1][:, -1]), ids.shape[1])
        ids = torch.cat((ids, token[:, None]), 1)
        features, hidden = target.forward(token[:, None], cache)
        all_features.append(features)
        all_hidden.append(hidden)
    return Generated(ids=ids, features=torch.cat(all_features, 1), hidden=torch.cat(all_hidden, 1))


def temperature_choice(temperature: float, seed: int) -> Choose:
    """Return a chooser: argmax at 0, else independent samples at ``temperature``."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor, position: int) -> Tensor:
        if temperature <= 0.0:
            return logits.argmax(-1)
        mass = torch.softmax(logits / temperature, -1).cumsum(-1)
        drawn = torch.rand(logits.shape[0], 1, generator=generator) * mass[:, -1:]
        return torch.searchsorted(mass, drawn).squeeze(-1).clamp(max=logits.shape[-1] - 1)

    return choose
