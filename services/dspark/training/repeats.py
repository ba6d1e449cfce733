"""Repetition in token sequences: what is counted, and which tokens complete it."""

import numpy as np


def completes_repeat(ids: np.ndarray, ngram: int) -> np.ndarray:
    """Mark tokens that complete an n-gram seen earlier in their row: ids [S, L] -> bool [S, L]."""
    marks = np.zeros(ids.shape, dtype=bool)
    for row, mark in zip(ids.tolist(), marks, strict=True):
        seen: set[tuple[int, ...]] = set()
        for at in range(ngram - 1, len(row)):
            gram = tuple(row[at - ngram + 1 : at + 1])
            mark[at] = gram in seen
            seen.add(gram)
    return marks


def repeated_share(ids: list[int], ngram: int = 8) -> float:
    """Share of a text's n-grams that occurred before in it; 0 for texts shorter than n + 1."""
    grams = [tuple(ids[i : i + ngram]) for i in range(len(ids) - ngram + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0
