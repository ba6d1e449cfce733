"""Block attention of the drafter: a session's block sees its cached context and itself.

Not causal: every block row sees all context rows and the whole block.  Deterministic, but not
bitwise independent of shapes: a drafter's last bits decide nothing about a served token.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional


def block_attention(
    q: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Attention of R blocks, each over keys and values of its own length.

    A loop over sessions was measured against one padded product: gathering ragged caches into
    a padded tensor costs more than the calls it saves at every R up to 16.

    Args:
        q: [R, G, H, K] queries, normed and rotated.
        keys: R tensors [N, L_r, K]: context rows, then the block's own; may be views.
        values: R tensors [N, L_r, K].

    Returns:
        [R, G, H, K].
    """
    num_sessions, num_rows, num_heads, head_dim = q.shape
    num_kv_heads = keys[0].shape[0]
    group = num_heads // num_kv_heads
    # Query heads that share a key head become rows of one product: [R, N, group * G, K].
    folded = (
        q.view(num_sessions, num_rows, num_kv_heads, group, head_dim)
        .permute(0, 2, 3, 1, 4)
        .reshape(num_sessions, num_kv_heads, group * num_rows, head_dim)
    )
    parts = [
        functional.scaled_dot_product_attention(
            folded[index : index + 1], keys[index].unsqueeze(0), values[index].unsqueeze(0)
        )
        for index in range(num_sessions)
    ]
    output = parts[0] if num_sessions == 1 else torch.cat(parts)
    return (
        output.view(num_sessions, num_kv_heads, group, num_rows, head_dim)
        .permute(0, 3, 1, 2, 4)
        .reshape(num_sessions, num_rows, num_heads, head_dim)
    )
