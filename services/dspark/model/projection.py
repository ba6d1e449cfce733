"""The projection of tapped hidden states to context rows: ``fc``, then ``hidden_norm``.

It belongs to the drafter's checkpoint but runs beside the target, so that only its output
leaves: one row of width D for each token instead of m of them.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dspark.model.fast_norm import rms_norm
from dspark.model.packed_linear import PackedLinear


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """Weights of the projection.

    Attributes:
        fc: [D, m * D].
        hidden_norm: [D].
        eps: Of the norm.
        projection_id: Digest of the weights and of the target; "" where it does not matter.
    """

    fc: torch.Tensor
    hidden_norm: torch.Tensor
    eps: float = 1e-6
    projection_id: str = ""


class Projector(nn.Module):
    """Applies a `Projection` in float32."""

    def __init__(self, projection: Projection, device: torch.device) -> None:
        super().__init__()
        weight = projection.fc.detach().float().to(device)
        self._fc: nn.Module
        if device.type == "cpu":
            self._fc = PackedLinear(weight, None)
        else:
            self._fc = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=device)
            self._fc.weight.data = weight
        self._weight = projection.hidden_norm.detach().float().to(device)
        self._eps = projection.eps

    @property
    def size(self) -> int:
        """D."""
        return self._weight.shape[0]

    def forward(self, taps: list[torch.Tensor]) -> torch.Tensor:
        """m tensors [T, D] -> [T, D] float32."""
        x: torch.Tensor = self._fc(torch.cat(taps, dim=-1).float())
        return rms_norm(x, self._weight, self._eps)
