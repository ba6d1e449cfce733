"""Penalties against Hugging Face's processor and against the formulas, token by token."""

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from dspark_kernels.penalties import penalize

V = 40
PROMPT, OUTPUT = [1, 2, 2, 30], [2, 5, 5, 5, 39]


def penalized(logits: np.ndarray, **asked: float) -> np.ndarray:
    seen = np.zeros(V, dtype=np.bool_)
    seen[PROMPT + OUTPUT] = True
    counts = np.bincount(OUTPUT, minlength=V).astype(np.int32)
    row = logits.copy()
    neutral = {"repetition": 1.0, "frequency": 0.0, "presence": 0.0}
    penalize(row, seen, counts, **(neutral | asked))
    return row


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=V).astype(np.float32) * 4


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3])
def test_repetition_is_hugging_faces_over_prompt_and_output(
    logits: np.ndarray, penalty: float
) -> None:
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    ids = torch.tensor([PROMPT + OUTPUT])
    expected = processor(ids, torch.from_numpy(logits)[None].clone())[0].numpy()
    np.testing.assert_array_equal(penalized(logits, repetition=penalty), expected)


def test_frequency_counts_the_output_only(logits: np.ndarray) -> None:
    expected = logits.copy()
    for token in OUTPUT:
        expected[token] -= 0.4
    np.testing.assert_allclose(penalized(logits, frequency=0.4), expected, rtol=1e-6, atol=1e-6)


def test_presence_is_taken_off_once(logits: np.ndarray) -> None:
    expected = logits.copy()
    expected[sorted(set(OUTPUT))] -= np.float32(-1.5)
    np.testing.assert_array_equal(penalized(logits, presence=-1.5), expected)


def test_together_they_come_in_vllms_order(logits: np.ndarray) -> None:
    first = penalized(logits, repetition=1.5)
    np.testing.assert_array_equal(
        penalized(logits, repetition=1.5, frequency=0.3, presence=0.2),
        penalized(penalized(first, frequency=0.3), presence=0.2),
    )
