from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dspark.model import target
from dspark.model.batch import RaggedBatch, Segment
from dspark.model.decoder import HuggingFaceDecoder
from dspark.model.lean_decoder import LeanDecoder, RotationTable, lean_form
from dspark.model.paged_attention import LayerGeometry
from dspark.model.target import TargetRunner
from tests.model import tiny

FAMILY = ("qwen2", "qwen3", "llama", "mistral")
GEOMETRY = {
    layer: LayerGeometry(
        num_kv_heads=2, key_dim=32, value_dim=32, sliding_window=None, softcap=None
    )
    for layer in range(tiny.LAYERS)
}


class HuggingFaceRunner(TargetRunner):
    """The same target as Hugging Face wrote it, over the same packed products."""

    def _arranged(self, model: nn.Module, geometry: dict[int, LayerGeometry]) -> HuggingFaceDecoder:
        with torch.inference_mode():
            target.pack_linears(model)
            target.replace_norms(model)
        return HuggingFaceDecoder(model, self.tap_layers, self.info.num_layers)


def loaded(kind: type[TargetRunner], name: str) -> TargetRunner:
    return kind.load(
        tiny.folder(name),
        num_pages=16,
        tap_layers=tiny.TAPS,
        projection=tiny.projection(),
        rows_dtype="float32",
    )


def written(runner: TargetRunner) -> list[torch.Tensor]:
    """Logits of a prompt whose last row alone is wanted, of verified drafts, and of company."""
    prompt = tiny.prompt(40)
    batches = [
        [Segment(token_ids=prompt[:33], start=0, block_table=[0, 1, 2], logits_from=32)],
        [
            Segment(token_ids=prompt[33:], start=33, block_table=[0, 1, 2], logits_from=0),
            Segment(token_ids=prompt[:5], start=0, block_table=[3], logits_from=None),
            Segment(token_ids=prompt[5:9], start=0, block_table=[4], logits_from=2),
        ],
        [Segment(token_ids=prompt[5:6], start=5, block_table=[3], logits_from=0)],
    ]
    return [runner.forward(RaggedBatch(segments=batch)).logits for batch in batches]


@pytest.mark.parametrize("name", FAMILY)
def test_every_bit_is_that_of_hugging_faces_forward(name: str) -> None:
    lean, plain = loaded(TargetRunner, name), loaded(HuggingFaceRunner, name)
    assert isinstance(lean._decoder, LeanDecoder)
    for ours, theirs in zip(written(lean), written(plain), strict=True):
        assert torch.equal(ours, theirs)
    for table, stop in (([0, 1, 2], 40), ([3], 6), ([4], 4)):
        assert np.array_equal(lean.rows(table, 0, stop), plain.rows(table, 0, stop))
        for ours_kv, theirs_kv in zip(
            lean.export_kv(table, 0, stop), plain.export_kv(table, 0, stop), strict=True
        ):
            assert np.array_equal(ours_kv, theirs_kv)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_other_architectures_run_as_they_are_written(name: str) -> None:
    assert lean_form(tiny.plain(name), (), GEOMETRY) is None


def _with_extra_weight(model: nn.Module) -> None:
    layer = model.get_submodule("model.layers.1")
    layer.extra_scale = nn.Parameter(torch.ones(1))


def _with_another_linear(model: nn.Module) -> None:
    mlp = model.get_submodule("model.layers.1.mlp")
    mlp.down_proj = nn.Sequential(nn.Linear(128, tiny.HIDDEN))


def _with_another_activation(model: nn.Module) -> None:
    model.config.hidden_act = "gelu"  # type: ignore[union-attr]


def _with_moving_angles(model: nn.Module) -> None:
    model.config.rope_parameters["rope_type"] = "dynamic"  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    "change",
    [_with_extra_weight, _with_another_linear, _with_another_activation, _with_moving_angles],
)
def test_a_model_with_anything_unknown_runs_as_it_is_written(
    change: Callable[[nn.Module], None],
) -> None:
    model = tiny.plain("qwen3")
    assert lean_form(model, (), GEOMETRY) is not None
    change(model)
    assert lean_form(model, (), GEOMETRY) is None


def test_angles_do_not_depend_on_what_else_is_asked() -> None:
    def table() -> RotationTable:
        rotary = tiny.plain("qwen3").get_submodule("model.rotary_emb")
        return RotationTable(rotary, chunk=8)

    small, grown = table(), table()
    grown.of(torch.tensor([3, 40]))
    for ours, theirs in zip(
        small.of(torch.tensor([3, 7])), grown.of(torch.tensor([3, 7])), strict=True
    ):
        assert torch.equal(ours, theirs)
    cos, sin = grown.of(torch.tensor([33]))
    expected = 33.0 * small._rotary.get_buffer("inv_freq")
    torch.testing.assert_close(cos[0, 0, :16], expected.cos())
    torch.testing.assert_close(sin[0, 0], torch.cat([-expected.sin(), expected.sin()]))
