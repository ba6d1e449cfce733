import torch
import torch.nn.functional as F

from dspark.model.drafter import DSparkDrafter, dense_attention
from dspark.model.drafter_config import DrafterConfig
from dspark.training.blocks import DraftLoss, block_hidden, teacher_forced_logits


def drafter_of(head="vanilla", rank=5) -> DSparkDrafter:
    torch.manual_seed(0)
    config = DrafterConfig(
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
        markov_rank=rank,
        markov_head_type=head,
        rope_theta=10000.0,
        max_positions=64,
    )
    return DSparkDrafter(config).eval().requires_grad_(False)


def test_many_anchors_at_once_equal_each_block_alone():
    drafter = drafter_of()
    features, anchors = torch.randn(2, 12, 32), torch.tensor([[2, 7, 11], [5, 1, 8]])
    tokens = torch.randint(0, 31, (2, 3))
    together = block_hidden(drafter, features, anchors, tokens)
    for s in range(2):
        for a in range(3):
            start = int(anchors[s, a])
            rows = drafter.project(features[s, :start])

            def attend(layer, q, k, v, rows=rows, start=start):
                ctx_k, ctx_v = drafter.layer(layer).context_kv(rows, torch.arange(start))
                return dense_attention(q, torch.cat((ctx_k, k)), torch.cat((ctx_v, v)), None)

            block = drafter.block_tokens(tokens[s, a])
            alone = drafter.hidden(block, start + torch.arange(3), attend)
            torch.testing.assert_close(together[s, a], alone, atol=1e-5, rtol=1e-4)


def test_the_fused_loss_has_the_value_and_gradient_of_the_formula():
    torch.manual_seed(0)
    logits = torch.randn(6, 20, requires_grad=True)
    target = torch.randn(6, 20).softmax(-1)
    tokens, weights = torch.randint(0, 20, (6,)), torch.rand(6)
    loss, acceptance = DraftLoss.apply(logits, target, tokens, weights, 0.1)
    (made,) = torch.autograd.grad(loss, logits)
    distance = (logits.softmax(-1) - target).abs().sum(-1)
    ce = F.cross_entropy(logits, tokens, reduction="none")
    wanted = (weights * (0.1 * ce + 0.9 * distance)).sum()
    (gradient,) = torch.autograd.grad(wanted, logits)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(made, gradient)
    torch.testing.assert_close(acceptance, (1.0 - 0.5 * distance).detach())


def test_teacher_forcing_equals_the_sequential_steps_for_every_head():
    for head, rank in (("vanilla", 5), ("gated", 5), ("rnn", 5), ("none", 0)):
        drafter = drafter_of(head, rank)
        h, previous = torch.randn(4, 3, 16), torch.randint(0, 31, (4, 3))
        logits, confidence = teacher_forced_logits(drafter, h, previous)
        state = None
        for k in range(3):
            bias, state = drafter.head_bias(previous[:, k], h[:, k], state)
            step = drafter.base_logits(h[:, k])
            step = step if bias is None else step + bias
            torch.testing.assert_close(logits[:, k], step)
            wanted = drafter.confidence_logits(h[:, k], previous[:, k])
            torch.testing.assert_close(confidence[:, k], wanted)
