"""The target: a Hugging Face causal LM run over a paged pool, many sessions at a time.

One forward pass takes the new tokens of all sessions as one flat row, each with its own
position; attention sorts out who sees what.  On the way the hidden states after the tapped
layers become context rows, kept in the same pages as the keys and values.  On a CPU every
row's result is bitwise independent of what else is in the pass.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dspark.model import self_check
from dspark.model.batch import RaggedBatch, StepOutput
from dspark.model.decoder import Decoder, HuggingFaceDecoder
from dspark.model.fast_norm import replace_norms
from dspark.model.kv_pool import KvPool
from dspark.model.lean_decoder import lean_form
from dspark.model.packed_linear import pack_linears
from dspark.model.paged_attention import LayerGeometry, PagedStep, Probe, running
from dspark.model.projection import Projection, Projector
from dspark.model.target_folder import (
    TargetInfo,
    describe,
    load_causal_lm,
    use_paged_attention,
)
from dspark_kernels.segments import Segments


class TargetRunner:
    """Runs ragged batches of one target; for one thread at a time.

    Attributes:
        info: Shape of the model.
        pool: Its pages.
        tap_layers: Tapped layers, in the order in which they are concatenated.
        max_batch_tokens: Most tokens in one pass.
        projection_id: Stamp of the rows; "" without a projection.
        last_taps: [T, D] of each tapped layer in the last pass.
        dtype: Of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_pages: int,
        page_tokens: int = 16,
        tap_layers: Sequence[int] = (),
        projection: Projection | None = None,
        rows_dtype: str = "float16",
        max_batch_tokens: int = 512,
    ) -> None:
        """Take over a plain model, which is changed in place; `load` describes the arguments."""
        self.info: TargetInfo = describe(model.config, getattr(model, "generation_config", None))
        self.max_batch_tokens = max_batch_tokens
        parameter = next(model.parameters())
        self._device, self.dtype = parameter.device, parameter.dtype
        self.tap_layers = tuple(tap_layers)
        check_tap_layers(self.tap_layers, self.info.num_layers)
        self._projector = None
        self.projection_id = ""
        if projection is not None:
            width = len(self.tap_layers) * self.info.hidden_size
            if projection.fc.shape[1] != width:
                raise ValueError(
                    f"the projection reads {projection.fc.shape[1]} features but layers "
                    f"{list(self.tap_layers)} of width {self.info.hidden_size} give {width}: "
                    "check the drafter's target_layer_ids"
                )
            self._projector = Projector(projection, self._device).eval()
            self.projection_id = projection.projection_id
        use_paged_attention(model)
        geometry = self._probe(model)
        self._decoder = self._arranged(model, geometry)
        self.pool = KvPool(
            geometry,
            num_pages=num_pages,
            page_tokens=page_tokens,
            rows_size=0 if self._projector is None else self._projector.size,
            rows_dtype=rows_dtype,
            dtype=self.dtype,
            device=self._device,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        num_pages: int,
        page_tokens: int = 16,
        tap_layers: Sequence[int] = (),
        projection: Projection | None = None,
        rows_dtype: str = "float16",
        device: str = "cpu",
        max_batch_tokens: int = 512,
    ) -> "TargetRunner":
        """Load a target and prove on a short prompt that it is computed right.

        Args:
            path: Hugging Face folder, or hub id.
            num_pages: Pages of the pool.
            page_tokens: Tokens in a page.
            tap_layers: Tapped layers; id l is the output of layer l, -1 the embeddings.
            projection: Weights from the drafter's checkpoint; None keeps no rows.
            rows_dtype: "float16", "bfloat16" or "float32".
            device: Torch device.
            max_batch_tokens: Most tokens in one pass.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        model = load_causal_lm(path, device=device)
        vocab_size = describe(model.config).vocab_size
        expected = self_check.reference(model, vocab_size=vocab_size)
        runner = cls(
            model,
            num_pages=num_pages,
            page_tokens=page_tokens,
            tap_layers=tap_layers,
            projection=projection,
            rows_dtype=rows_dtype,
            max_batch_tokens=max_batch_tokens,
        )
        self_check.check_target(runner, expected)
        return runner

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.info.vocab_size

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.info.hidden_size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation."""
        return self.info.eos_token_ids

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence."""
        return self.info.max_context_tokens

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, rows included."""
        return self.pool.page_bytes

    @property
    def last_taps(self) -> list[torch.Tensor]:
        """[T, D] of each tapped layer in the last pass, before the projection."""
        return [self._decoder.tap(layer) for layer in self.tap_layers]

    @torch.inference_mode()
    def forward(self, batch: RaggedBatch) -> StepOutput:
        """Run new tokens of several sessions: writes their pages, returns wanted logits.

        Raises:
            ValueError: More than ``max_batch_tokens`` tokens, or a table too short.
        """
        if batch.num_tokens > self.max_batch_tokens:
            raise ValueError(
                f"{batch.num_tokens} tokens in a pass of at most {self.max_batch_tokens}"
            )
        parts = batch.segments
        segments = Segments.of(
            [part.block_table for part in parts],
            [part.start for part in parts],
            [len(part.token_ids) for part in parts],
            page_tokens=self.pool.page_tokens,
        )
        slots = segments.new_slots().to(self._device)
        step = PagedStep(segments, slots, self.pool.keys, self.pool.values)
        token_ids = torch.tensor([token for part in parts for token in part.token_ids])
        logits = self._decoder.run(
            token_ids.to(self._device),
            segments.positions().to(self._device),
            torch.tensor(batch.logits_rows(), dtype=torch.int64),
            step,
        )
        if self._projector is not None:
            assert self.pool.rows is not None
            rows = self._projector(self.last_taps)
            self.pool.rows.index_copy_(0, slots, rows.to(self.pool.rows.dtype))
        return StepOutput(logits=logits.float())

    def rows(self, block_table: Sequence[int], start: int, stop: int) -> NDArray[np.generic]:
        """Context rows [stop - start, D] as kept; bfloat16 as uint16 bits."""
        return self.pool.read_rows(block_table, start, stop)

    def import_rows(
        self, block_table: Sequence[int], start: int, rows: NDArray[np.generic]
    ) -> None:
        """Write rows of another replica at positions start, start + 1, ..."""
        self.pool.write_rows(block_table, start, rows)

    def export_kv(
        self, block_table: Sequence[int], start: int, stop: int
    ) -> list[NDArray[np.generic]]:
        """By layer: [stop - start, 2, Hkv, Dh], keys before values."""
        return self.pool.read_kv(block_table, start, stop)

    def import_kv(
        self, block_table: Sequence[int], start: int, arrays: Sequence[NDArray[np.generic]]
    ) -> None:
        """Write what `export_kv` of another replica gave."""
        self.pool.write_kv(block_table, start, arrays)

    @torch.inference_mode()
    def _arranged(self, model: nn.Module, geometry: dict[int, LayerGeometry]) -> Decoder:
        """The model in the form that runs fastest here."""
        if self._device.type == "cpu" and self.dtype == torch.float32:
            lean = lean_form(model, self.tap_layers, geometry)
            if lean is not None:
                return lean
            pack_linears(model)
            replace_norms(model)
        return HuggingFaceDecoder(model, self.tap_layers, self.info.num_layers)

    @torch.inference_mode()
    def _probe(self, model: nn.Module) -> dict[int, LayerGeometry]:
        """Ask each layer what it keeps, by a pass over two tokens that attends to nothing."""
        probe = Probe()
        with running(probe):
            model(
                input_ids=torch.zeros(1, 2, dtype=torch.int64, device=self._device),
                position_ids=torch.arange(2, device=self._device).unsqueeze(0),
                attention_mask=None,
                use_cache=False,
            )
        self_check.check_attention_layers(
            list(probe.layers), self.info.num_layers, self.info.architecture
        )
        return probe.layers


def check_tap_layers(tap_layers: Sequence[int], num_layers: int) -> None:
    """Refuse layer ids that cannot be tapped.

    Raises:
        ValueError: Naming the id and the range.
    """
    for layer in tap_layers:
        if not -1 <= layer < num_layers - 1:
            raise ValueError(
                f"target layer id {layer} is outside -1..{num_layers - 2} (the last layer may "
                "not be tapped): check the drafter's target_layer_ids"
            )
