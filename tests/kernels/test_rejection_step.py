"""One step by rejection has the target's law: chi-square through the drafter's and the verifier's
own code, over every kind of p and q, with drafters that are wrong on purpose.

A correct system fails one of these checks with chance 1e-4 each; seeds are fixed.
"""

from collections.abc import Callable
from math import erfc, sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dspark.core.draft_laws import DraftLaws
from dspark_kernels.rejection_draft import draft_bits, draw, shipped_laws
from dspark_kernels.rejection_step import accept_uniforms, decide
from dspark_kernels.sampling import SamplingBatch

N = 3_000
Z_LIMIT = 4.0
NEVER = -80.0
"""A logit that softmax makes nothing of."""


def batch(count: int, *, position: int = 5, temperature: float = 1.0, **limits) -> SamplingBatch:  # type: ignore[no-untyped-def]
    return SamplingBatch.of(
        temperatures=[temperature] * count,
        seeds=list(range(count)),
        positions=[position] * count,
        **{name: [value] * count for name, value in limits.items()},
    )


def rows_of(sampling: SamplingBatch) -> SamplingBatch:
    """Two rows for each: the draft's position and the one after it."""
    count = len(sampling.seeds)
    both = sampling.at(torch.arange(count).repeat_interleave(2))
    both.positions[1::2] += 1
    return both


def one_step(
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    *,
    max_tokens: int = 64,
    tamper: Callable[[NDArray[np.int64], NDArray[np.float16]], DraftLaws] | None = None,
    **how: float,
) -> tuple[NDArray[np.int64], float]:
    """First committed token of N sessions (as counts), and the share of drafts accepted."""
    with np.errstate(divide="ignore"):
        p_logits, q_logits = (np.maximum(np.log(law), NEVER).astype(np.float32) for law in (p, q))
    sampling = batch(N, **how)
    logits = torch.from_numpy(q_logits).expand(N, -1)
    ids, weights = shipped_laws(logits, sampling, max_tokens)
    index = draw(weights, draft_bits(sampling, nonce=2**61 + 7))
    drafts = []
    for row in range(N):
        kept = weights[row] > 0
        laws = DraftLaws(counts=(int(kept.sum()),), ids=ids[row][kept], weights=weights[row][kept])
        token = int(ids[row][index[row]])
        assert row > 50 or laws.fits((token,), len(p))
        drafts.append(((token,), laws if tamper is None else tamper(ids[row], weights[row])))
    target = torch.from_numpy(p_logits).expand(2 * N, -1)
    decided = decide(target, rows_of(sampling), drafts)
    first = np.array([tokens[0] for tokens in decided])
    return np.bincount(first, minlength=len(p)), sum(len(t) == 2 for t in decided) / N


def z_score(counts: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """Wilson-Hilferty: chi-square as a normal deviate; infinite where the law says never."""
    expected = law * counts.sum()
    if counts[expected < 1e-9].any():
        return float("inf")
    seen = expected >= 1e-9
    degrees = int(seen.sum()) - 1
    if degrees == 0:
        return 0.0
    chi = float(((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum())
    spread = 2 / (9 * degrees)
    return ((chi / degrees) ** (1 / 3) - (1 - spread)) / sqrt(spread)


def random_law(seed: int, size: int, *, sharp: float = 1.5) -> NDArray[np.float64]:
    weights = np.exp(sharp * np.random.default_rng(seed).normal(size=size))
    return weights / weights.sum()


def one_hot(token: int, size: int) -> NDArray[np.float64]:
    return np.eye(size)[token]


HALF = np.array([0.25] * 4 + [0.0] * 4)
PAIRS = {
    "random": (random_law(1, 16), random_law(2, 16)),
    "another random": (random_law(3, 5), random_law(4, 5)),
    "equal": (random_law(5, 12), random_law(5, 12)),
    "disjoint": (HALF, HALF[::-1].copy()),
    "q within p": (random_law(6, 8), HALF),
    "p within q": (HALF, random_law(7, 8)),
    "one-hot q": (random_law(8, 6), one_hot(2, 6)),
    "one-hot p": (one_hot(1, 6), random_law(9, 6)),
    "both one-hot": (one_hot(1, 6), one_hot(1, 6)),
    "other one-hots": (one_hot(1, 6), one_hot(4, 6)),
}


def test_the_limit_is_the_false_alarm_rate_that_is_stated() -> None:
    assert erfc(Z_LIMIT / sqrt(2)) / 2 < 1e-4


@pytest.mark.parametrize(
    ("name", "max_tokens"),
    [
        *((name, 64) for name in PAIRS),
        ("random", 1),
        ("random", 3),
        ("equal", 5),
        ("p within q", 2),
    ],
)
def test_one_step_has_the_targets_law(name: str, max_tokens: int) -> None:
    p, q = PAIRS[name]
    counts, accepted = one_step(p, q, max_tokens=max_tokens)
    assert z_score(counts, p) < Z_LIMIT
    if max_tokens == 64:
        overlap = float(np.minimum(p, q).sum())
        assert accepted == pytest.approx(overlap, abs=4 * 0.5 / sqrt(N) + 1e-3)


@pytest.mark.parametrize("limits", [{"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.3}])
def test_the_requests_limits_shape_p_and_q(limits: dict[str, float]) -> None:
    p, q = PAIRS["random"]
    counts, accepted = one_step(p, q, temperature=0.8, **limits)
    sharp = p ** (1 / 0.8) / (p ** (1 / 0.8)).sum()
    order = np.argsort(-sharp)
    keep = {
        "top_k": 3,
        "top_p": int(np.searchsorted(sharp[order].cumsum(), 0.7)) + 1,
        "min_p": int((sharp >= 0.3 * sharp.max()).sum()),
    }[next(iter(limits))]
    law = np.zeros_like(p)
    law[order[:keep]] = sharp[order[:keep]] / sharp[order[:keep]].sum()
    assert z_score(counts, law) < Z_LIMIT
    assert accepted > 0


def test_rounding_to_what_is_shipped_happens_before_the_draw() -> None:
    """What float16 cannot hold is never drawn, and p is kept all the same."""
    q = np.array([1.0 - 3e-8, 3e-8 / 2, 3e-8 / 2])
    logits = torch.from_numpy(np.log(q).astype(np.float32))[None]
    _, weights = shipped_laws(logits, batch(1), 64)
    assert weights.tolist() == [[1.0, 0.0, 0.0]]
    counts, _ = one_step(np.array([0.2, 0.5, 0.3]), q)
    assert z_score(counts, np.array([0.2, 0.5, 0.3])) < Z_LIMIT


# --- negative controls ----------------------------------------------------------------------------


def laws_of(ids: NDArray[np.int64], weights: NDArray[np.float16]) -> DraftLaws:
    return DraftLaws(counts=(len(ids),), ids=ids, weights=weights)


def test_control_truncating_the_shipped_copy_only_is_caught() -> None:
    p, q = PAIRS["random"]

    def cut(ids: NDArray[np.int64], weights: NDArray[np.float16]) -> DraftLaws:
        kept = np.sort(np.argsort(-weights)[:6])
        shares = weights[kept].astype(np.float64)
        return laws_of(ids[kept], (shares / shares.sum()).astype(np.float16))

    counts, _ = one_step(p, q, tamper=cut)
    assert z_score(counts, p) > Z_LIMIT


def test_control_q_from_before_the_rounding_is_caught() -> None:
    """Drawn from what is coarsely rounded, judged by what was there before."""
    p, q = PAIRS["random"]
    coarse = np.round(q * 8) / 8
    coarse = np.where(coarse > 0, coarse, 0)
    coarse /= coarse.sum()

    def before(ids: NDArray[np.int64], weights: NDArray[np.float16]) -> DraftLaws:
        return laws_of(np.arange(len(q)), q.astype(np.float16))

    counts, _ = one_step(p, coarse, tamper=before)
    assert z_score(counts, p) > Z_LIMIT
    counts, _ = one_step(p, coarse)
    assert z_score(counts, p) < Z_LIMIT


def test_control_a_residual_of_p_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = PAIRS["random"]
    monkeypatch.setattr("dspark_kernels.rejection_step._residual", lambda weights, *_: weights)
    counts, _ = one_step(p, q)
    assert z_score(counts, p) > Z_LIMIT


def test_control_the_targets_own_numbers_in_the_drafter_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A draft drawn with the very uniform of its accept test."""
    p, q = PAIRS["random"]

    def same(sampling: SamplingBatch, nonce: int) -> NDArray[np.uint64]:
        return (accept_uniforms(sampling) * 2.0**53).astype(np.uint64) << np.uint64(11)

    monkeypatch.setitem(globals(), "draft_bits", same)
    counts, _ = one_step(p, q)
    assert z_score(counts, p) > Z_LIMIT


# --- the parts ------------------------------------------------------------------------------------


def test_the_draw_is_exact_at_its_edges() -> None:
    weights = np.array([[0.25, 0.0, 0.75]], dtype=np.float16)
    quarter = 1 << 62
    for bits, index in ((0, 0), (quarter - 1, 0), (quarter, 2), (2**64 - 1, 2)):
        assert draw(weights, np.array([bits], dtype=np.uint64)).tolist() == [index]


def test_another_round_draws_anew_and_the_accept_test_does_not() -> None:
    sampling = batch(100)
    assert (draft_bits(sampling, 1) != draft_bits(sampling, 2)).all()
    assert (draft_bits(sampling, 1) == draft_bits(sampling, 1)).all()
    assert np.corrcoef(accept_uniforms(sampling), draft_bits(sampling, 1).astype(float))[0, 1] < 0.3


def test_a_drafter_with_broken_logits_still_ships_a_law() -> None:
    logits = torch.tensor([[float("nan")] * 4, [0.0, 1.0, 2.0, 3.0]])
    ids, weights = shipped_laws(logits, batch(2), 2)
    assert weights[0].tolist() == [1.0, 0.0]
    assert weights[1].sum() == pytest.approx(1.0, abs=1e-3)
    assert ids[1].tolist() == [2, 3]


def test_blocks_are_judged_each_by_its_own_rows() -> None:
    """Together or alone: the same decisions."""
    generator = torch.Generator().manual_seed(3)
    laws_logits = torch.randn(3, 9, generator=generator)
    ids, weights = shipped_laws(laws_logits, batch(3), 4)
    laws = DraftLaws(counts=(4, 4, 4), ids=ids.ravel(), weights=weights.ravel())
    blocks = []
    for bits in (1, 6, 11, 15):
        index = draw(weights, np.full(3, bits << 60, np.uint64))
        blocks.append((tuple(ids[range(3), index].tolist()), laws))
    target = torch.randn(16, 9, generator=generator)
    sampling = SamplingBatch.of(
        temperatures=[1.0] * 16, seeds=[n // 4 for n in range(16)], positions=list(range(16))
    )
    alone = [
        decide(target[4 * n : 4 * n + 4], sampling.at(torch.arange(4 * n, 4 * n + 4)), [block])[0]
        for n, block in enumerate(blocks)
    ]
    assert decide(target, sampling, blocks) == alone
