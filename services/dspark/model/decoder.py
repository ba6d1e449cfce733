"""A decoder as the target's runner drives it, and Hugging Face's own forward as one.

``lean_decoder`` is the other: the same mathematics in fewer calls, for the architectures that it
knows.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

from dspark.model.paged_attention import AttentionStep, running
from dspark.model.target_folder import decoder_layers


class Decoder(Protocol):
    """Runs a flat batch of T tokens through all layers."""

    def run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        wanted: torch.Tensor,
        step: AttentionStep,
    ) -> torch.Tensor:
        """Return logits [N, V].

        Args:
            token_ids: [T] int64.
            positions: [T] int64, of each token in its session.
            wanted: [N] int64, rows of the batch whose logits are made.
            step: Takes every layer's queries, keys and values.
        """

    def tap(self, layer: int) -> torch.Tensor:
        """Return [T, D] as layer ``layer`` left it in the last run; -1: the embeddings."""


class HuggingFaceDecoder:
    """The model's own forward, with hooks on the tapped layers.

    Args:
        model: Switched to the paged attention function.
        tap_layers: To be kept.
        num_layers: Decoder layers of the model.
    """

    def __init__(self, model: nn.Module, tap_layers: Sequence[int], num_layers: int) -> None:
        self._model = model
        self._taps: dict[int, torch.Tensor] = {}
        layers = decoder_layers(model, num_layers)
        for layer in tap_layers:
            if layer == -1:
                layers[0].register_forward_pre_hook(self._input_hook, with_kwargs=True)
            else:
                layers[layer].register_forward_hook(self._output_hook(layer))

    def run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        wanted: torch.Tensor,
        step: AttentionStep,
    ) -> torch.Tensor:
        """See Decoder."""
        with running(step):
            output = self._model(
                input_ids=token_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                attention_mask=None,
                use_cache=False,
                logits_to_keep=wanted,
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def tap(self, layer: int) -> torch.Tensor:
        """See Decoder."""
        return self._taps[layer]

    def _input_hook(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        assert isinstance(hidden, torch.Tensor)
        self._taps[-1] = hidden[0]

    def _output_hook(
        self, layer: int
    ) -> Callable[[nn.Module, object, torch.Tensor | tuple[torch.Tensor, ...]], None]:
        def keep(
            module: nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]
        ) -> None:
            self._taps[layer] = (output if isinstance(output, torch.Tensor) else output[0])[0]

        return keep
