"""Muon for hidden matrices beside AdamW for the rest, under one learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import nn


class MuonAdamW:
    """Two optimizers that step, decay and are saved as one.

    2-D weights of the transformer layers go to Muon (orthogonalised momentum); embeddings, norms,
    heads and biases to AdamW.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        muon_lr: float,
        adam_lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        muon: list[nn.Parameter] = []
        adam: list[nn.Parameter] = []
        for name, parameter in named_parameters:
            if not parameter.requires_grad:
                continue
            hidden = parameter.ndim == 2 and ("layers." in name or name == "fc.weight")
            (muon if hidden else adam).append(parameter)
        self._muon = torch.optim.Muon(
            muon,
            lr=muon_lr,
            momentum=0.95,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adam = torch.optim.AdamW(
            adam, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self._bases = ((self._muon, muon_lr), (self._adam, adam_lr))
        self.parameters = muon + adam

    def step(self, scale: float, max_norm: float = 1.0) -> None:
        """Clip, step with every learning rate multiplied by ``scale``, clear gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
        for optimizer, base in self._bases:
            for group in optimizer.param_groups:
                group["lr"] = base * scale
            optimizer.step()  # type: ignore[no-untyped-call]  # Muon ships no annotation here
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Return both states."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """Restore both states."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def schedule(progress: float, warm_up: float = 0.04, decay_from: float = 0.3) -> float:
    """Learning-rate scale at ``progress`` in [0, 1]: warm-up, constant, then cosine to 2 %."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    if progress < decay_from:
        return 1.0
    part = min((progress - decay_from) / (1.0 - decay_from), 1.0)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * part))
