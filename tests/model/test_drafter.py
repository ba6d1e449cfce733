import dataclasses

import pytest
import torch

from dspark.model.drafter import DSparkDrafter, dense_attention, rotate
from dspark.model.drafter_config import DrafterConfig


def config_of(**changes) -> DrafterConfig:
    base = DrafterConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        num_layers=2,
        num_target_layers=4,
        target_layer_ids=(0, 2),
        gamma=3,
        mask_token_id=31,
        markov_rank=5,
        markov_head_type="vanilla",
        rope_theta=10000.0,
        max_positions=64,
    )
    return dataclasses.replace(base, **changes)


def drafter_of(**changes) -> DSparkDrafter:
    torch.manual_seed(0)
    return DSparkDrafter(config_of(**changes)).eval().requires_grad_(False)


def one_block(drafter, features, start, anchor):
    """The drafter over one session, written as plainly as possible."""
    rows = drafter.project(features[:start])
    where = torch.arange(start)
    positions = start + torch.arange(drafter.config.gamma)

    def attend(layer, q, k, v):
        ctx_k, ctx_v = drafter.layer(layer).context_kv(rows, where)
        return dense_attention(q, torch.cat((ctx_k, k)), torch.cat((ctx_v, v)), None)

    return drafter.hidden(drafter.block_tokens(torch.tensor(anchor)), positions, attend)


def test_a_block_starts_with_the_anchor_and_goes_on_with_masks():
    tokens = drafter_of().block_tokens(torch.tensor([4, 9]))
    assert tokens.tolist() == [[4, 31, 31], [9, 31, 31]]


def test_the_block_is_not_causal_but_context_rows_never_see_it():
    drafter = drafter_of()
    features = torch.randn(6, 32)
    before = one_block(drafter, features, 5, 4)
    drafter.embed_tokens.weight[31] += 1.0
    after = one_block(drafter, features, 5, 4)
    assert not torch.allclose(before[0], after[0])


def test_the_anchors_own_feature_row_is_not_read():
    drafter = drafter_of()
    features = torch.randn(6, 32)
    before = one_block(drafter, features, 5, 4)
    features[5] = 100.0
    assert torch.equal(before, one_block(drafter, features, 5, 4))


def test_context_keys_cached_piece_by_piece_equal_those_made_at_once():
    drafter = drafter_of()
    rows = drafter.project(torch.randn(7, 32))
    layer = drafter.layer(1)
    whole = layer.context_kv(rows, torch.arange(7))
    pieces = [layer.context_kv(rows[a:b], torch.arange(a, b)) for a, b in ((0, 3), (3, 4), (4, 7))]
    for i in range(2):
        torch.testing.assert_close(torch.cat([piece[i] for piece in pieces]), whole[i])


def test_rotation_depends_on_differences_of_positions_only():
    q, k = torch.randn(1, 2, 8), torch.randn(1, 2, 8)

    def score(a, b):
        q_at = rotate(q, torch.tensor([a]), 10000.0)
        return (q_at * rotate(k, torch.tensor([b]), 10000.0)).sum(-1)

    torch.testing.assert_close(score(9, 4), score(25, 20), atol=1e-4, rtol=1e-4)


def test_the_vanilla_bias_is_w2_of_the_previous_tokens_w1_row():
    drafter = drafter_of()
    head = drafter.markov_head
    bias, state = drafter.head_bias(torch.tensor([3]), torch.randn(1, 16))
    torch.testing.assert_close(bias[0], head.markov_w2.weight @ head.markov_w1.weight[3])
    assert state is None


def test_the_gated_bias_scales_the_row_by_a_gate_of_hidden_and_row():
    drafter = drafter_of(markov_head_type="gated")
    head, h = drafter.markov_head, torch.randn(16)
    row = head.markov_w1.weight[3]
    gate = torch.sigmoid(head.gate_proj(torch.cat((h, row))))
    bias, _ = drafter.head_bias(torch.tensor(3), h)
    torch.testing.assert_close(bias, head.markov_w2.weight @ (gate * row))


def test_the_rnn_state_starts_at_zero_and_carries_over():
    drafter = drafter_of(markov_head_type="rnn")
    head, h = drafter.markov_head, torch.randn(16)
    row = head.markov_w1.weight[3]
    gate, candidate, out = head.joint_proj(torch.cat((torch.zeros(5), row, h))).chunk(3)
    bias, state = drafter.head_bias(torch.tensor(3), h)
    torch.testing.assert_close(bias, head.markov_w2.weight @ torch.tanh(out))
    torch.testing.assert_close(state, (1 - torch.sigmoid(gate)) * torch.tanh(candidate))
    again, _ = drafter.head_bias(torch.tensor(3), h, state)
    assert not torch.allclose(again, bias)


def test_rank_0_means_no_bias_and_confidence_from_the_hidden_state_alone():
    drafter = drafter_of(markov_rank=0, markov_head_type="none")
    assert drafter.head_bias(torch.tensor([1]), torch.randn(1, 16)) == (None, None)
    h = torch.randn(4, 16)
    assert drafter.confidence_logits(h, torch.arange(4)).shape == (4,)


def test_confidence_is_fp32_whatever_the_weights_are():
    drafter = drafter_of().bfloat16()
    drafter.confidence_head.float()
    logits = drafter.confidence_logits(torch.randn(2, 16).bfloat16(), torch.tensor([1, 2]))
    assert logits.dtype == torch.float32


def test_confidence_without_a_head_is_refused():
    drafter = drafter_of(enable_confidence_head=False)
    with pytest.raises(ValueError, match="no confidence head"):
        drafter.confidence_logits(torch.randn(1, 16), torch.tensor([1]))


def test_tokens_outside_a_reduced_vocabulary_are_never_proposed():
    drafter = drafter_of()
    drafter.outside = torch.zeros(32, dtype=torch.bool)
    drafter.outside[7] = True
    assert drafter.base_logits(torch.randn(2, 16))[:, 7].tolist() == [float("-inf")] * 2
