"""The DSpark drafter: one parallel pass over a block, then a small sequential head.

Shape legend: T rows of any layout (a leading ``...`` stands for any batch dimensions), S sessions
or blocks, G draft positions (gamma), D hidden size, V vocabulary, H query heads, N key/value
heads, K head width, R Markov rank, m tapped target layers.

The parts are row-wise and know nothing of batches: the serving engine and training both drive
``hidden`` with an ``attend`` function of their own (ragged caches there, a block mask here).
A round, in the order of calls:

1. ``project``: new raw features -> context rows (on the target's side, once per token);
2. ``layers[i].context_kv``: context rows -> keys and values to cache, for each layer;
3. ``hidden``: the block's tokens -> h, calling ``attend(i, q, k, v)`` in each layer;
4. ``base_logits``: h -> U, all positions at once;
5. left to right: ``confidence_logits``, ``head_bias``, sample x_k from softmax((U_k + B_k) / T).

Parameter names are those of the DeepSpec checkpoints, so a state dict loads directly.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dspark.model.drafter_config import DrafterConfig


class Attend(Protocol):
    """Attention of one draft layer, supplied by the caller."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Attend from block rows to their context and their own block, without a causal mask.

        Args:
            layer: Index of the draft layer.
            q: Queries [..., H, K], normed and rotated.
            k: Keys of the block rows [..., N, K], normed and rotated; valid for this round only.
            v: Values of the block rows [..., N, K].

        Returns:
            Attended values [..., H, K], scaled by K ** -0.5 inside the softmax.
        """
        ...


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32, written out: each row's result ignores the other rows."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., size] over its last dimension."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotate (rotate-half RoPE) x [..., heads, K] by absolute positions [...]."""
    half = x.shape[-1] // 2
    exponent = torch.arange(0, half, dtype=torch.float32, device=x.device) / half
    angles = positions.float()[..., None] * theta**-exponent
    cos, sin = angles.cos()[..., None, :], angles.sin()[..., None, :]
    a, b = x[..., :half].float(), x[..., half:].float()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class DraftAttention(nn.Module):
    """Projections of a draft layer's attention; the attention itself is the caller's."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        d, k = config.hidden_size, config.head_dim
        self.head_dim = k
        self.rope_theta = config.rope_theta
        self.q_proj = nn.Linear(d, config.num_heads * k, bias=False)
        self.k_proj = nn.Linear(d, config.num_kv_heads * k, bias=False)
        self.v_proj = nn.Linear(d, config.num_kv_heads * k, bias=False)
        self.o_proj = nn.Linear(config.num_heads * k, d, bias=False)
        self.q_norm = RMSNorm(k, config.rms_norm_eps)
        self.k_norm = RMSNorm(k, config.rms_norm_eps)

    def query(self, x: Tensor, positions: Tensor) -> Tensor:
        """Make queries [..., H, K] of rows [..., D] at positions [...]."""
        q = self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim)))
        return rotate(q, positions, self.rope_theta)

    def key_value(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Make keys and values, each [..., N, K], of rows [..., D] at positions [...]."""
        k = self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim)))
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        return rotate(k, positions, self.rope_theta), v


class DraftMLP(nn.Module):
    """Gated MLP (SwiGLU)."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(d, f, bias=False)
        self.up_proj = nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DraftLayer(nn.Module):
    """One draft layer."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def context_kv(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Make the cached keys and values of context rows.

        Context rows do not pass through ``input_layernorm``.

        Args:
            rows: Projected rows [..., D] (the output of ``DSparkDrafter.project``).
            positions: Absolute positions [...], integers.

        Returns:
            Keys and values, each [..., N, K].
        """
        return self.self_attn.key_value(rows, positions)

    def block_qkv(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make q [..., H, K], k and v [..., N, K] of block rows x [..., D]."""
        normed = self.input_layernorm(x)
        k, v = self.self_attn.key_value(normed, positions)
        return self.self_attn.query(normed, positions), k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention output ([..., H, K]) and the MLP to the residual x [..., D]."""
        x = x + self.self_attn.o_proj(attended.flatten(-2))
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class MarkovHead(nn.Module):
    """Sequential head: a bias on the logits from the previous token.

    vanilla: W2 . W1[x]; gated: W2 . (sigmoid(gate [h ; W1[x]]) * W1[x]); rnn: a gated recurrent
    state over [s ; W1[x] ; h], bias W2 . tanh(output), s_0 = 0.
    """

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        r, d = config.markov_rank, config.hidden_size
        self.kind = config.markov_head_type
        self.rank = r
        self.markov_w1 = nn.Embedding(config.vocab_size, r)
        self.markov_w2 = nn.Linear(r, config.draft_vocab_size, bias=False)
        if self.kind == "gated":
            self.gate_proj = nn.Linear(d + r, r)
        elif self.kind == "rnn":
            self.joint_proj = nn.Linear(2 * r + d, 3 * r)

    def hidden_step(
        self, prev_token: Tensor, h: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Make the vector that W2 reads [..., R], and the next state (rnn only)."""
        e = self.markov_w1(prev_token)
        if self.kind == "gated":
            return torch.sigmoid(self.gate_proj(torch.cat((h, e), -1))) * e, None
        if self.kind == "rnn":
            s = torch.zeros_like(e) if state is None else state
            gate, candidate, out = self.joint_proj(torch.cat((s, e, h), -1)).chunk(3, -1)
            gate = torch.sigmoid(gate)
            return torch.tanh(out), gate * s + (1 - gate) * torch.tanh(candidate)
        return e, None

    def forward(
        self, prev_token: Tensor, h: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Make the bias [..., V] and the next state from prev_token [...] and h [..., D]."""
        z, state = self.hidden_step(prev_token, h, state)
        return self.markov_w2(z), state


class ConfidenceHead(nn.Module):
    """Linear head that predicts acceptance; computed in fp32 whatever the weights are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., size] to logits [...]."""
        weight, bias = self.proj.weight.float(), self.proj.bias.float()
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = F.linear(x.float(), weight, bias).squeeze(-1)
        return logits


class DSparkDrafter(nn.Module):
    """DSpark drafter of the Qwen3 family; see the module's docstring for a round."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        d, v = config.hidden_size, config.vocab_size
        self.embed_tokens = nn.Embedding(v, d)
        self.fc = nn.Linear(config.feature_size, d, bias=False)
        self.hidden_norm = RMSNorm(d, config.rms_norm_eps)
        self.layers = nn.ModuleList(DraftLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(d, config.rms_norm_eps)
        self.lm_head = nn.Linear(d, config.draft_vocab_size, bias=False)
        if config.markov_rank:
            self.markov_head = MarkovHead(config)
        if config.enable_confidence_head:
            with_markov = config.confidence_head_with_markov and config.markov_rank > 0
            self.confidence_head = ConfidenceHead(d + (config.markov_rank if with_markov else 0))
        self.outside: Tensor | None = None
        """True [V] for tokens that a reduced draft vocabulary cannot propose; None for none."""

    def layer(self, index: int) -> DraftLayer:
        """Return draft layer ``index``."""
        layer = self.layers[index]
        assert isinstance(layer, DraftLayer)
        return layer

    def project(self, features: Tensor) -> Tensor:
        """Project raw features [..., m * D] to context rows [..., D]: fc, then hidden_norm."""
        rows: Tensor = self.hidden_norm(self.fc(features))
        return rows

    def block_tokens(self, anchors: Tensor) -> Tensor:
        """Make the block's input tokens [..., G] of anchors [...]: the anchor, then masks."""
        tokens = anchors.unsqueeze(-1).repeat_interleave(self.config.gamma, -1)
        tokens[..., 1:] = self.config.mask_token_id
        return tokens

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run the parallel pass over block rows.

        Args:
            tokens: Input tokens [...] (from ``block_tokens``; any layout of whole blocks).
            positions: Absolute positions [...]: start..start + G - 1 for an anchor at ``start``.
            attend: Attention over context and block, called once per layer, in order.

        Returns:
            h [..., D], normed: row k - 1 of a block predicts x_k.
        """
        x = self.embed_tokens(tokens)
        for index in range(self.config.num_layers):
            layer = self.layer(index)
            q, k, v = layer.block_qkv(x, positions)
            x = layer.finish(x, attend(index, q, k, v))
        h: Tensor = self.norm(x)
        return h

    def base_logits(self, h: Tensor) -> Tensor:
        """Make U [..., V] of h [..., D]; -inf outside a reduced draft vocabulary."""
        logits: Tensor = self.lm_head(h)
        if self.outside is not None:
            logits = logits.masked_fill(self.outside, float("-inf"))
        return logits

    def head_bias(
        self, prev_token: Tensor, h: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Make the sequential bias of one position.

        Args:
            prev_token: x_{k-1} [...], int64; the anchor for k = 1.
            h: h_k [..., D]; read by the gated and rnn heads only.
            state: State returned for position k - 1 (rnn); None for k = 1.

        Returns:
            Bias B_k [..., V] (None without a head), to be added to U_k before temperature, and
            the next state (None unless rnn).
        """
        if not self.config.markov_rank:
            return None, None
        bias, state = self.markov_head(prev_token, h, state)
        return bias, state

    def confidence_logits(self, h: Tensor, prev_token: Tensor) -> Tensor:
        """Make confidence logits [...] (fp32) of h_k [..., D] and x_{k-1} [...].

        The confidence of x_k never sees x_k.

        Raises:
            ValueError: If the checkpoint has no confidence head.
        """
        if not self.config.enable_confidence_head:
            raise ValueError("this drafter has no confidence head (enable_confidence_head false)")
        x = h
        if self.config.confidence_head_with_markov and self.config.markov_rank:
            x = torch.cat((h.float(), self.markov_head.markov_w1(prev_token).float()), -1)
        logits: Tensor = self.confidence_head(x)
        return logits


def dense_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Reference attention with grouped key/value heads.

    Args:
        q: Queries [..., Q, H, K].
        k: Keys [..., C, N, K].
        v: Values [..., C, N, K].
        mask: True where a query may look, broadcastable to [..., Q, C]; None means everywhere.

    Returns:
        Attended values [..., Q, H, K].
    """
    groups = q.shape[-2] // k.shape[-2]
    q = q.transpose(-3, -2)
    k = k.transpose(-3, -2).repeat_interleave(groups, -3)
    v = v.transpose(-3, -2).repeat_interleave(groups, -3)
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-3), float("-inf"))
    out: Tensor = (scores.softmax(-1).to(v.dtype) @ v).transpose(-3, -2)
    return out
