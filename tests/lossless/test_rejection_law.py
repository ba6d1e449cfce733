"""Sampling by rejection has the target's law; four classic mistakes have not.

An autoregressive toy pair of 4 tokens: p and q are tables over the previous token.  The joint law
of the first three committed tokens (64 outcomes) is compared with the target's own.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dspark_kernels.rejection import accept_by_rejection, draw, truncated
from tests.lossless.conftest import Table
from tests.lossless.evidence import chi_square, rate

VOCAB, GAMMA, LENGTH = 4, 3, 3
BLOCKS = 20_000

Laws = tuple[torch.Tensor, torch.Tensor]
Drafting = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(q, uniforms) -> (drafts, the q that the verifier is told)."""


def soft(seed: int, sharpness: float = 1.5) -> torch.Tensor:
    """A table [previous token, token]."""
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(VOCAB, VOCAB, generator=generator)).double().softmax(-1)


def one_hot(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(VOCAB).double()[torch.randint(0, VOCAB, (VOCAB,), generator=generator)]


def disjoint() -> Laws:
    p, q = soft(5), soft(6)
    p[:, 2:] = 0.0
    q[:, :2] = 0.0
    return p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)


def nearly_equal() -> Laws:
    p = soft(7)
    q = p.clone()
    q[:, 0] += 1e-9
    return p, q


def overlapping_supports() -> Laws:
    p, q = soft(8), soft(9)
    p[:, 0] = 0.0
    q[:, 3] = 0.0
    return p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)


PAIRS: dict[str, Laws] = {
    "random": (soft(1), soft(2)),
    "sharp": (soft(3, 4.0), soft(4, 4.0)),
    "disjoint": disjoint(),
    "equal": (soft(7), soft(7)),
    "zero residual": nearly_equal(),
    "one-hot p": (one_hot(10), soft(11)),
    "one-hot q": (soft(12), one_hot(13)),
    "both one-hot": (one_hot(14), one_hot(15)),
    "overlapping supports": overlapping_supports(),
}


def drawn(q: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(q, uniforms), q


def joint_law(p: torch.Tensor) -> np.ndarray:
    """The law of LENGTH tokens after token 0: [V, V, V]."""
    return (p[0][:, None, None] * p[:, :, None] * p[None, :, :]).numpy()


def committed(
    p: torch.Tensor, q: torch.Tensor, seed: int, *, lengths: bool, drafting: Drafting = drawn
) -> torch.Tensor:
    """Draft a block, verify it, and go on plainly to LENGTH tokens: [BLOCKS, LENGTH]."""
    generator = torch.Generator().manual_seed(seed)

    def uniforms(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    previous = torch.zeros(BLOCKS, dtype=torch.int64)
    drafts, told, targets = [], [], [p[previous]]
    for _ in range(GAMMA):
        tokens, shipped = drafting(q[previous], uniforms(BLOCKS))
        drafts.append(tokens)
        told.append(shipped)
        targets.append(p[tokens])
        previous = tokens
    result = accept_by_rejection(
        torch.stack(targets, 1),
        torch.stack(told, 1),
        torch.stack(drafts, 1),
        uniforms(BLOCKS, GAMMA + 1),
        torch.randint(0, GAMMA + 1, (BLOCKS,), generator=generator) if lengths else None,
    )
    output = torch.empty(BLOCKS, LENGTH, dtype=torch.int64)
    previous = torch.zeros(BLOCKS, dtype=torch.int64)
    for position in range(LENGTH):
        plain = draw(p[previous], uniforms(BLOCKS))
        corrected = torch.where(result.accepted == position, result.next_tokens, plain)
        previous = torch.where(result.accepted > position, drafts[position], corrected)
        output[:, position] = previous
    return output


def counted(output: torch.Tensor) -> np.ndarray:
    flat = output[:, 0] * VOCAB * VOCAB + output[:, 1] * VOCAB + output[:, 2]
    return torch.bincount(flat, minlength=VOCAB**LENGTH).numpy()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("lengths", [False, True], ids=["whole blocks", "random lengths"])
def test_the_committed_tokens_have_the_target_s_joint_law(
    pair: str, lengths: bool, table: Table
) -> None:
    p, q = PAIRS[pair]
    output = committed(p, q, 1 + lengths, lengths=lengths)
    table.holds(chi_square(counted(output), joint_law(p)))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_draft_is_accepted_with_one_minus_the_total_variation(pair: str, table: Table) -> None:
    p, q = PAIRS[pair]
    generator = torch.Generator().manual_seed(4)
    uniforms = torch.rand(BLOCKS, 3, dtype=torch.float64, generator=generator)
    told = q[0].expand(BLOCKS, 1, -1)
    drafts = draw(told[:, 0], uniforms[:, 2])[:, None]
    result = accept_by_rejection(p[0].expand(BLOCKS, 2, -1), told, drafts, uniforms[:, :2])
    overlap = float(torch.minimum(p[0], q[0]).sum())
    table.holds(rate(int(result.accepted.sum()), BLOCKS, overlap))


def test_a_distribution_cut_before_drawing_keeps_the_law(table: Table) -> None:
    def cut_first(q: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shipped = truncated(q.float(), 2)
        return draw(shipped, uniforms), shipped

    p, q = PAIRS["random"]
    output = committed(p, q, 3, lengths=False, drafting=cut_first)
    table.holds(chi_square(counted(output), joint_law(p)))


# --- negative controls: each must fail the chi-square above -----------------------------------


def argmaxed(q: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return q.argmax(-1), q


def cut_on_the_wire(q: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(q, uniforms), truncated(q.float(), 2)


def cooled(q: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The drafter uses another temperature than it says."""
    return draw(q**2, uniforms), q


def better_of_two(q: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two drafters answer, and the likelier draft is taken."""
    first, second = draw(q, uniforms), draw(q, (uniforms * 977) % 1.0)
    rows = torch.arange(len(q))
    return torch.where(q[rows, first] >= q[rows, second], first, second), q


@pytest.mark.parametrize("drafting", [argmaxed, cut_on_the_wire, cooled, better_of_two])
def test_control_drafts_that_were_not_drawn_from_the_q_told(
    drafting: Drafting, table: Table
) -> None:
    p, q = PAIRS["random"]
    output = committed(p, q, 1, lengths=False, drafting=drafting)
    table.fails(chi_square(counted(output), joint_law(p)))


def test_control_a_rejection_that_draws_from_p(table: Table) -> None:
    """The residual forgotten: the first token, 4 outcomes."""
    p, q = PAIRS["random"]
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(BLOCKS, 3, dtype=torch.float64, generator=generator)
    drafts = draw(q[0].expand(BLOCKS, -1), uniforms[:, 0])
    right = uniforms[:, 1] * q[0][drafts] < p[0][drafts]
    output = torch.where(right, drafts, draw(p[0].expand(BLOCKS, -1), uniforms[:, 2]))
    counts = torch.bincount(output, minlength=VOCAB).numpy()
    table.fails(chi_square(counts, p[0].numpy()))


def test_control_drafts_from_the_uniforms_that_judge_them(table: Table) -> None:
    """A small u draws token 0, and then accepts it although p has half its mass there."""
    p, q = torch.tensor([0.2, 0.3, 0.4, 0.1]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(BLOCKS, 2, dtype=torch.float64, generator=generator)
    told = q.expand(BLOCKS, 1, -1)
    drafts = draw(told[:, 0], uniforms[:, 0])[:, None]
    result = accept_by_rejection(p.expand(BLOCKS, 2, -1), told, drafts, uniforms)
    output = torch.where(result.accepted > 0, drafts[:, 0], result.next_tokens)
    table.fails(chi_square(torch.bincount(output, minlength=VOCAB).numpy(), p.double().numpy()))


def test_control_such_drafts_are_accepted_too_often(table: Table) -> None:
    """The rate of the same mistake: all are accepted, and 1 - TV is 0.8."""
    p, q = torch.tensor([0.2, 0.3, 0.4, 0.1]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(BLOCKS, 2, dtype=torch.float64, generator=generator)
    told = q.expand(BLOCKS, 1, -1)
    drafts = draw(told[:, 0], uniforms[:, 0])[:, None]
    result = accept_by_rejection(p.expand(BLOCKS, 2, -1), told, drafts, uniforms)
    table.fails(rate(int(result.accepted.sum()), BLOCKS, 0.8))
