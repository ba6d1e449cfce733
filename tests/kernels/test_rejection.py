import pytest
import torch

from dspark_kernels.rejection import accept_by_rejection, draw, probabilities, truncated


def table(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def test_a_draft_is_accepted_while_u_is_below_the_ratio() -> None:
    p = table([0.3, 0.7], [0.5, 0.5])[None].expand(2, -1, -1)
    q = table([0.6, 0.4])[None].expand(2, -1, -1)
    uniforms = torch.tensor([[0.499, 0.0], [0.501, 0.0]])
    result = accept_by_rejection(p, q, torch.tensor([[0], [0]]), uniforms)
    assert result.accepted.tolist() == [1, 0]
    assert result.next_tokens.tolist() == [0, 1]  # the bonus; the only token of the residual


def test_nothing_is_accepted_after_the_first_rejection() -> None:
    p = table([1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0])[None]
    q = torch.full((1, 3, 2), 0.5)
    result = accept_by_rejection(p, q, torch.tensor([[0, 0, 0]]), torch.zeros(1, 4))
    assert result.accepted.tolist() == [1]
    assert result.next_tokens.tolist() == [1]


def test_blocks_of_unequal_length_share_a_batch() -> None:
    p = table([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])[None].expand(3, -1, -1)
    q = torch.zeros(3, 2, 3)
    q[:, 0, 1] = q[:, 1, 2] = 1.0
    drafts = torch.tensor([[1, 2]]).expand(3, -1)
    uniforms = torch.full((3, 3), 0.99)
    result = accept_by_rejection(p, q, drafts, uniforms, torch.tensor([0, 1, 2]))
    assert result.accepted.tolist() == [0, 1, 2]
    assert result.next_tokens.tolist() == [1, 2, 0]  # from p, never from the residual


def test_without_drafts_the_token_is_the_target_s() -> None:
    p = table([0.2, 0.8])[None]
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    result = accept_by_rejection(p, torch.zeros(1, 0, 2), nothing, torch.tensor([[0.3]]))
    assert (result.accepted.item(), result.next_tokens.item()) == (0, 1)


def test_what_the_target_forbids_is_never_accepted() -> None:
    p = table([0.0, 1.0], [1.0, 0.0])[None]
    q = table([1.0, 0.0])[None]
    result = accept_by_rejection(p, q, torch.tensor([[0]]), torch.zeros(1, 2))
    assert (result.accepted.item(), result.next_tokens.item()) == (0, 1)


def test_a_residual_of_rounding_takes_the_target_s_distribution() -> None:
    """p and q equal but for 1e-8: where u rejects all the same, p decides and not the crumbs."""
    p = torch.tensor([[[0.5 - 1e-8, 0.5 + 1e-8], [1.0, 0.0]]], dtype=torch.float64)
    q = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64)
    uniforms = torch.tensor([[1.0 - 1e-12, 0.2]], dtype=torch.float64)
    result = accept_by_rejection(p, q, torch.tensor([[0]]), uniforms)
    assert (result.accepted.item(), result.next_tokens.item()) == (0, 0)


def test_greedy_rows_are_one_hot_and_accept_the_argmax_only() -> None:
    logits = table([1.0, 3.0, 3.0], [0.0, 1.0, 2.0])
    one_hot = probabilities(logits, torch.tensor([0.0, 1e-6]))
    assert one_hot.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    p = one_hot[None].expand(2, -1, -1)
    q = torch.eye(3)[torch.tensor([[1], [2]])]
    result = accept_by_rejection(p, q, torch.tensor([[1], [2]]), torch.full((2, 2), 0.999))
    assert result.accepted.tolist() == [1, 0]
    assert result.next_tokens.tolist() == [2, 1]


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = table([0.0, 1.0], [0.0, 1.0])
    mixed = probabilities(logits, torch.tensor([0.5, 0.0]))
    assert mixed[0].tolist() == pytest.approx(torch.softmax(logits[0] / 0.5, 0).tolist())
    assert mixed[1].tolist() == [0.0, 1.0]


def test_a_cut_distribution_is_normalised_and_keeps_lower_ids_among_equals() -> None:
    q = table([0.1, 0.3, 0.3, 0.3], [0.4, 0.1, 0.2, 0.3])
    cut = truncated(q, 2)
    assert cut[0].tolist() == pytest.approx([0.0, 0.5, 0.5, 0.0])
    assert cut[1].tolist() == pytest.approx([4 / 7, 0.0, 0.0, 3 / 7])
    assert truncated(q, 4) is q
    with pytest.raises(ValueError, match="0 tokens"):
        truncated(q, 0)


def test_no_token_without_mass_is_drawn() -> None:
    rows = table([0.0, 0.5, 0.0, 0.5, 0.0])
    draws = [
        int(draw(rows, torch.tensor([u], dtype=torch.float64)))
        for u in (0.0, 0.4999, 0.5, 1.0 - 2**-53, 1.0)
    ]
    assert draws == [1, 1, 3, 3, 3]


def test_a_block_s_result_ignores_the_other_blocks() -> None:
    generator = torch.Generator().manual_seed(3)
    p = torch.rand(9, 4, 50, generator=generator).softmax(-1)
    q = torch.rand(9, 3, 50, generator=generator).softmax(-1)
    drafts = torch.randint(0, 50, (9, 3), generator=generator)
    uniforms = torch.rand(9, 4, generator=generator)
    together = accept_by_rejection(p, q, drafts, uniforms)
    for block in range(9):
        only = slice(block, block + 1)
        alone = accept_by_rejection(p[only], q[only], drafts[only], uniforms[only])
        assert alone.accepted[0] == together.accepted[block]
        assert alone.next_tokens[0] == together.next_tokens[block]


@pytest.mark.parametrize("wrong", ["p", "q", "uniforms"])
def test_shapes_that_do_not_fit_are_named(wrong: str) -> None:
    tensors = {"p": torch.rand(2, 4, 5), "q": torch.rand(2, 3, 5), "uniforms": torch.rand(2, 4)}
    tensors[wrong] = tensors[wrong][:, 1:]
    with pytest.raises(ValueError, match=f"{wrong} is"):
        accept_by_rejection(drafts=torch.zeros(2, 3, dtype=torch.int64), **tensors)
