"""The drafter's parallel pass, arranged for few calls: new context rows and blocks together.

The mathematics is `dspark.model.drafter`'s; the arrangement is not.  In each layer the new
context rows and the (normed) block rows go through one packed product for queries, keys and
values, one norm and one rotation.  A session's rows lie together, its new context before its
block, so that their keys and values go behind the cached ones in one copy; the block's own lie
beyond the end of the context and are overwritten by the next round.

Legend: T rows of all sessions, R sessions, G block rows each, D hidden, H query heads, N
key/value heads, K head width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional

from dspark.model.context_cache import ContextCache
from dspark.model.drafter import DSparkDrafter
from dspark.model.fast_norm import rms_norm
from dspark.model.packed_linear import PackedLinear
from dspark_kernels.drafter_attention import block_attention


class _Layer:
    """Weights of one draft layer, packed."""

    def __init__(self, drafter: DSparkDrafter, index: int) -> None:
        layer = drafter.layer(index)
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = (p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.qkv = PackedLinear(torch.cat([q, k, v]), None)
        self.out = PackedLinear(attention.o_proj.weight, None)
        self.gate_up = PackedLinear(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), None)
        self.down = PackedLinear(mlp.down_proj.weight, None)
        heads, kv_heads = drafter.config.num_heads, drafter.config.num_kv_heads
        # One norm for queries and keys: a weight for each head, [H + N, K].
        self.qk_norm = torch.cat(
            [
                attention.q_norm.weight.expand(heads, -1),
                attention.k_norm.weight.expand(kv_heads, -1),
            ]
        ).contiguous()
        self.input_norm = layer.input_layernorm.weight
        self.mlp_norm = layer.post_attention_layernorm.weight


class _Part:
    """Where one session's rows lie: positions start .. stop - 1, rows ``row`` on."""

    __slots__ = ("count", "row", "start", "stop")

    def __init__(self, session: ContextCache, gamma: int) -> None:
        self.count = session.num_pending
        self.start = session.run
        self.stop = self.start + self.count + gamma
        self.row = 0


class BlockForward:
    """Runs blocks of a drafter on the CPU in float32."""

    def __init__(self, drafter: DSparkDrafter) -> None:
        config = drafter.config
        self._config = config
        self._layers = [_Layer(drafter, index) for index in range(config.num_layers)]
        self._embedding = drafter.embed_tokens.weight
        self._masks = self._embedding[config.mask_token_id].expand(config.gamma, -1)
        self._norm = drafter.norm.weight
        self._head = PackedLinear(drafter.lm_head.weight, None)
        self._outside = drafter.outside
        half = config.head_dim // 2
        exponent = torch.arange(0, half, dtype=torch.float32) / half
        angles = torch.arange(0, _TABLE_POSITIONS).float()[:, None] * (config.rope_theta**-exponent)
        self._frequencies = config.rope_theta**-exponent
        self._cos = torch.cat([angles.cos(), angles.cos()], dim=-1)
        self._sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)

    def run(
        self, sessions: Sequence[ContextCache], anchors: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Absorb the pending rows of ``sessions`` and run one block for each.

        Args:
            sessions: Caches to advance.
            anchors: [R] int64; None absorbs the rows only.

        Returns:
            h [R, G, D], normed; None without anchors.
        """
        config = self._config
        gamma = 0 if anchors is None else config.gamma
        parts = [_Part(session, gamma) for session in sessions]
        if anchors is None and not any(part.count for part in parts):
            return None
        blank = torch.empty(gamma, config.hidden_size)
        rows = torch.cat(
            [piece for session in sessions for piece in (*session.take(), blank)]
        )  # [T, D]; the block's are filled in by each layer
        positions: list[int] = []
        blocks: list[int] = []
        for part in parts:
            part.row = len(positions)
            positions.extend(range(part.start, part.stop))
            blocks.extend(range(len(positions) - gamma, len(positions)))
        cos, sin = self._rotation(positions)
        block_rows = torch.tensor(blocks)
        caches = [
            session.make_room(part.stop, config.num_layers, config.num_kv_heads, config.head_dim)
            for session, part in zip(sessions, parts, strict=True)
        ]
        x = None if anchors is None else self._inputs(anchors)
        for index, layer in enumerate(self._layers):
            if x is not None:
                normed = rms_norm(x, layer.input_norm, config.rms_norm_eps)
                rows.index_copy_(0, block_rows, normed)
            q, kv = self._qkv(layer, rows, cos, sin)
            known = []
            for cache, part in zip(caches, parts, strict=True):
                mine = cache[index, :, :, : part.stop]  # [2, N, L, K]
                mine[:, :, part.start :] = kv[:, :, part.row : part.row + part.stop - part.start]
                known.append(mine)
            if x is not None:
                attended = block_attention(
                    q.index_select(0, block_rows).view(len(parts), gamma, config.num_heads, -1),
                    [mine[0] for mine in known],
                    [mine[1] for mine in known],
                )
                x = self._finish(layer, x, attended)
        for session, part in zip(sessions, parts, strict=True):
            session.run += part.count
        if x is None:
            return None
        return rms_norm(x, self._norm, config.rms_norm_eps).view(len(sessions), gamma, -1)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """Base logits [R, G, V] of h [R, G, D]; -inf outside a reduced draft vocabulary."""
        logits = self._head.rows(h.reshape(-1, h.shape[-1])).view(*h.shape[:-1], -1)
        if self._outside is not None:
            logits = logits.masked_fill(self._outside, float("-inf"))
        return logits

    def _inputs(self, anchors: torch.Tensor) -> torch.Tensor:
        """Embeddings [R * G, D] of blocks: the anchor, then masks."""
        blocks = self._masks.repeat(anchors.shape[0], 1)
        blocks[:: self._config.gamma] = self._embedding.index_select(0, anchors)
        return blocks

    def _rotation(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines [rows, 1, K]."""
        index = torch.tensor(positions)
        if max(positions) < self._cos.shape[0]:
            cos, sin = self._cos.index_select(0, index), self._sin.index_select(0, index)
        else:
            angles = index.float()[:, None] * self._frequencies
            cos = torch.cat([angles.cos(), angles.cos()], dim=-1)
            sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
        return cos.unsqueeze(1), sin.unsqueeze(1)

    def _qkv(
        self, layer: _Layer, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [T, H, K], and keys and values [2, N, T, K], of all rows."""
        config = self._config
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.head_dim
        qkv = layer.qkv.rows(rows)
        qk = qkv[:, : (heads + kv_heads) * width].view(-1, heads + kv_heads, width)
        normed = rms_norm(qk, layer.qk_norm, config.rms_norm_eps)
        swapped = normed.roll(width // 2, -1).mul_(sin)
        torch.add(normed.mul_(cos), swapped, out=qk)
        kv = qkv[:, heads * width :].view(-1, 2, kv_heads, width).permute(1, 2, 0, 3)
        return qk[:, :heads], kv

    def _finish(self, layer: _Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Attention output and MLP added to the residual x [R * G, D]."""
        x = layer.out.rows(attended.reshape(x.shape[0], -1)).add_(x)
        gate_up = layer.gate_up.rows(rms_norm(x, layer.mlp_norm, self._config.rms_norm_eps))
        gate, up = gate_up.chunk(2, dim=-1)
        output: torch.Tensor = layer.down.rows(functional.silu(gate).mul_(up)).add_(x)
        return output


_TABLE_POSITIONS = 4096
"""Rotations of positions below this are looked up."""
