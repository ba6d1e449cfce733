import numpy as np
import torch

from dspark.training.repetition import completes_repeat, repeated_share, synthetic_repeats


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
