import dataclasses
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from dspark.model.checkpoint import (
    check_shapes,
    expected_shapes,
    folder_revision,
    load_drafter,
    projection_id,
    save_drafter,
    stored_shapes,
)
from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_config import DrafterConfig, parse_drafter_config, read_drafter_config

RELEASED = {
    "4B": (2560, 9728, 36, 32, [1, 9, 17, 25, 33]),
    "8B": (4096, 12288, 36, 32, [1, 9, 17, 25, 33]),
    "14B": (5120, 17408, 40, 40, [1, 10, 19, 28, 37]),
}


def released_config(name):
    hidden, intermediate, layers, heads, ids = RELEASED[name]
    return {
        "architectures": ["Qwen3DSparkModel"],
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 5,
        "layer_types": ["full_attention"] * 5,
        "num_target_layers": layers,
        "target_layer_ids": ids,
        "block_size": 7,
        "mask_token_id": 151669,
        "markov_rank": 256,
        "markov_head_type": "vanilla",
        "enable_confidence_head": True,
        "confidence_head_with_markov": True,
        "num_anchors": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "max_position_embeddings": 40960,
        "attention_bias": False,
        "tie_word_embeddings": False,
    }


@pytest.mark.parametrize(
    ("name", "billions", "without_copies"),
    [("4B", 1.39, 0.62), ("8B", 2.37, 1.13), ("14B", 3.42, 1.86)],
)
def test_the_released_drafters_have_their_known_names_and_sizes(name, billions, without_copies):
    config = parse_drafter_config(released_config(name))
    shapes = expected_shapes(config)
    d, heads = config.hidden_size, config.num_heads
    assert shapes["fc.weight"] == (d, 5 * d)
    assert shapes["embed_tokens.weight"] == shapes["lm_head.weight"] == (151936, d)
    assert shapes["layers.4.self_attn.q_proj.weight"] == (heads * 128, d)
    assert shapes["layers.0.self_attn.k_norm.weight"] == (128,)
    assert shapes["markov_head.markov_w1.weight"] == (151936, 256)
    assert shapes["markov_head.markov_w2.weight"] == (151936, 256)
    assert shapes["confidence_head.proj.weight"] == (1, d + 256)
    assert shapes["confidence_head.proj.bias"] == (1,)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    copies = sizes["embed_tokens.weight"] + sizes["lm_head.weight"]
    assert round(sum(sizes.values()) / 1e9, 2) == billions
    assert round((sum(sizes.values()) - copies) / 1e9, 2) == without_copies


@pytest.mark.parametrize(
    ("head", "extra"),
    [
        ("gated", {"markov_head.gate_proj.weight": (8, 24), "markov_head.gate_proj.bias": (8,)}),
        ("rnn", {"markov_head.joint_proj.weight": (24, 32), "markov_head.joint_proj.bias": (24,)}),
    ],
)
def test_the_other_heads_have_the_published_shapes(head, extra):
    shapes = expected_shapes(dataclasses.replace(small(), markov_head_type=head))
    for name, shape in extra.items():
        assert shapes[name] == shape


def small(**changes) -> DrafterConfig:
    base = DrafterConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        num_layers=1,
        num_target_layers=4,
        target_layer_ids=(0, 2),
        gamma=3,
        mask_token_id=63,
        markov_rank=8,
        markov_head_type="vanilla",
        rope_theta=10000.0,
        max_positions=64,
    )
    return dataclasses.replace(base, **changes)


def saved(folder, **changes):
    torch.manual_seed(0)
    drafter = DSparkDrafter(small(**changes)).requires_grad_(False)
    save_drafter(folder, drafter, {"model_type": "qwen3"})
    return drafter


def test_a_saved_drafter_loads_as_it_was_but_for_half_precision(tmp_path):
    drafter = saved(tmp_path)
    loaded = load_drafter(tmp_path, gamma=3)
    assert loaded.config == drafter.config
    for name, tensor in drafter.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["architectures"] == ["Qwen3DSparkModel"]
    assert raw["model_type"] == "qwen3"
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["fc.weight"].dtype == torch.float16
    assert stored["confidence_head.proj.weight"].dtype == torch.float32


def test_a_missing_folder_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_drafter(tmp_path)


def test_missing_weights_are_named(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        load_drafter(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_drafter(tmp_path)


def test_another_gamma_is_refused_with_both_values(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"gamma 7 is configured .* block_size 3"):
        load_drafter(tmp_path, gamma=7)


def test_a_config_that_does_not_fit_the_tensors_is_refused_before_they_are_read(tmp_path):
    saved(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"tensor layers\.1\.\S+ .* is missing"):
        load_drafter(tmp_path)
    path.write_text(json.dumps({**raw, "markov_rank": 4}))
    with pytest.raises(ValueError, match=r"markov_w1\.weight is \[64, 8\].*\[64, 4\]"):
        load_drafter(tmp_path)


def test_an_unknown_tensor_is_refused():
    shapes = expected_shapes(small())
    stored = {name: (shape, None) for name, shape in shapes.items()}
    stored["surprise"] = ((1,), None)
    with pytest.raises(ValueError, match="tensor surprise is unknown"):
        check_shapes(small(), stored, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_layer_ids": [1, 35]}, "taps layer 35, the last of 36"),
        ({"target_layer_ids": [1, 36]}, "36 is outside -1..34"),
        ({"target_layer_ids": []}, "target_layer_ids is empty"),
        ({"target_layer_ids": None}, "target_layer_ids is None"),
        ({"block_size": 0}, "block_size 0 is below 1"),
        ({"block_size": "7"}, "block_size is '7'"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "is not ['Qwen3DSparkModel']"),
        ({"mask_token_id": 151936}, "mask_token_id 151936 is outside"),
        ({"markov_head_type": "lstm"}, "markov_head_type 'lstm' is unknown"),
        ({"attention_bias": True}, "attention_bias true"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn'"),
    ],
)
def test_a_wrong_config_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_drafter_config({**released_config("4B"), **change})


def test_a_target_of_another_shape_is_refused_with_both_values():
    with pytest.raises(ValueError, match="hidden_size 16, this target has 32"):
        small().require_target(hidden_size=32, vocab_size=64, num_layers=4)


def test_the_embedding_output_may_be_tapped():
    assert small(target_layer_ids=(-1, 2)).target_layer_ids == (-1, 2)


def speculators_config(**changes):
    raw = {
        "speculators_model_type": "dspark",
        "sample_from_anchor": True,
        "aux_hidden_state_layer_ids": [1, 3],
        "num_target_layers": 4,
        "block_size": 3,
        "mask_token_id": 63,
        "markov_rank": 8,
        "markov_head_type": "vanilla",
        "draft_vocab_size": 16,
        "transformer_layer_config": {
            "vocab_size": 64,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_hidden_layers": 1,
            "rope_theta": 10000.0,
            "max_position_embeddings": 64,
        },
    }
    raw.update(changes)
    return raw


def test_speculators_layer_ids_are_one_higher():
    assert parse_drafter_config(speculators_config()).target_layer_ids == (0, 2)


def test_the_older_speculators_layout_is_refused():
    raw = speculators_config()
    del raw["sample_from_anchor"]
    with pytest.raises(ValueError, match=r"sample_from_anchor is 'absent'.*1 \+ N"):
        parse_drafter_config(raw)


def test_a_reduced_vocabulary_is_scattered_into_the_full_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(speculators_config()))
    config = read_drafter_config(tmp_path)
    torch.manual_seed(0)
    tensors = {n: t.contiguous() for n, t in DSparkDrafter(config).state_dict().items()}
    embedding = tensors.pop("embed_tokens.weight")
    tensors["d2t"] = torch.arange(16) * 2  # draft id i is target id 3 * i
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has no embed_tokens\.weight"):
        load_drafter(tmp_path)
    drafter = load_drafter(tmp_path, target_embedding=embedding)
    h = torch.randn(2, 16)
    logits = drafter.base_logits(h)
    assert torch.isinf(logits).sum(1).tolist() == [48, 48]
    torch.testing.assert_close(logits[:, 0:48:3], h @ tensors["lm_head.weight"].T)
    bias, _ = drafter.head_bias(torch.tensor([5, 6]), h)
    assert bias.shape == (2, 64)


def test_the_projection_id_follows_the_projection_and_the_target():
    fc, norm = torch.randn(4, 8), torch.ones(4)
    one = projection_id(fc, norm, "a")
    assert one == projection_id(fc.clone(), norm.clone(), "a")
    assert len({one, projection_id(fc + 1, norm, "a"), projection_id(fc, norm, "b")}) == 3


def test_a_revision_changes_with_the_weights(tmp_path):
    saved(tmp_path)
    before = folder_revision(tmp_path)
    assert before == folder_revision(tmp_path)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    assert before != folder_revision(tmp_path)
    assert stored_shapes(tmp_path)["fc.weight"][0] == (16, 32)
