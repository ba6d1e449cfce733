import numpy as np
import torch

from dspark.training.repeats import completes_repeat, repeated_share
from dspark.training.repetition import (
    blend_targets,
    rescale_logits,
    synthetic_repeats,
)
from dspark.training.target import load_target


def test_tokens_that_complete_a_known_ngram_are_marked():
    marks = completes_repeat(np.array([[1, 2, 3, 1, 2, 3, 1], [1, 2, 3, 4, 5, 6, 7]]), 3)
    assert marks.astype(int).tolist() == [[0, 0, 0, 0, 0, 1, 1], [0] * 7]


def test_a_loop_is_nearly_all_repeats_and_fresh_text_has_none():
    assert repeated_share([1, 2] * 50) > 0.9
    assert repeated_share(list(range(100))) == 0.0
    assert repeated_share([1, 2, 3]) == 0.0


def test_synthetic_repeats_continue_a_span_with_its_period():
    ids = torch.arange(2 * 200).view(2, 200)
    fake, period = synthetic_repeats(ids, np.random.default_rng(0))
    for row in range(2):
        at = (period[row] > 0).nonzero().flatten()
        assert len(at) > 20
        assert torch.equal(fake[row, at], fake[row, at - period[row, at]])
        rest = (period[row] == 0).nonzero().flatten()
        assert torch.equal(fake[row, rest], ids[row, rest])


def test_a_flattened_model_gets_its_sharpness_back_and_keeps_its_greedy_text(work):
    model = load_target(work / "target")
    ids = torch.randint(7, 200, (8, 24))
    with torch.no_grad():
        ids[:, 1:] = model(input_ids=ids).logits.argmax(-1)[:, :-1]  # text that it likes
        greedy = model(input_ids=ids).logits.argmax(-1)
        model.model.norm.weight.mul_(0.8)
        assert rescale_logits(model, ids) > 1.1
        assert torch.equal(model(input_ids=ids).logits.argmax(-1), greedy)


def test_blending_moves_every_weight_by_its_share(work):
    start, tuned = load_target(work / "target"), load_target(work / "target")
    for parameter in tuned.parameters():
        parameter.data += 1.0
    blend_targets(work / "target", tuned, 0.25)
    for before, after in zip(start.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.25)
