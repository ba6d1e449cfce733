import torch

from dspark_kernels.sampling import SamplingBatch, choose_tokens
from dspark_kernels.sequential_head import LowRankBias, draft_tokens

VOCAB, RANK, GAMMA = 96, 8, 5


def head(table_bytes: int = 1 << 20) -> LowRankBias:
    generator = torch.Generator().manual_seed(2)
    w1, w2 = (torch.randn(VOCAB, RANK, generator=generator) for _ in range(2))
    return LowRankBias(w1, w2, table_bytes=table_bytes)


def logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, GAMMA, VOCAB, generator=torch.Generator().manual_seed(rows))


def sampling(temperatures: list[float], top_k: list[int] | None = None) -> SamplingBatch:
    rows = len(temperatures)
    return SamplingBatch.of(
        temperatures=temperatures,
        seeds=list(range(rows)),
        positions=[100 + row for row in range(rows)],
        top_k=top_k,
    )


def one_by_one(
    base: torch.Tensor, anchors: torch.Tensor, bias: LowRankBias, batch: SamplingBatch
) -> torch.Tensor:
    previous, chosen = anchors, []
    for index in range(GAMMA):
        previous = choose_tokens(base[:, index] + bias(index, previous), batch.moved(index))
        chosen.append(previous)
    return torch.stack(chosen, dim=1)


def test_each_token_sees_the_one_before_and_the_noise_of_its_position() -> None:
    base, anchors = logits(4), torch.tensor([3, 1, 4, 1])
    for batch in (
        sampling([0.0, 0.0, 0.0, 0.0]),
        sampling([0.8, 0.0, 1.2, 0.5]),
        sampling([0.8, 0.0, 1.2, 0.5], top_k=[0, 5, 3, 0]),
    ):
        expected = one_by_one(base, anchors, head(), batch)
        assert torch.equal(draft_tokens(base, anchors, head(), batch), expected)


def test_the_table_and_the_product_give_the_same_bias() -> None:
    previous = torch.tensor([5, 90])
    torch.testing.assert_close(head()(0, previous), head(table_bytes=0)(0, previous))


def test_without_a_head_positions_are_drafted_alone() -> None:
    base = logits(3)
    tokens = draft_tokens(base, torch.tensor([0, 1, 2]), None, sampling([0.0] * 3))
    assert torch.equal(tokens, base.argmax(-1))


def test_a_stateful_head_is_called_in_order() -> None:
    calls: list[tuple[int, list[int]]] = []

    def bias(index: int, previous: torch.Tensor) -> None:
        calls.append((index, previous.tolist()))

    tokens = draft_tokens(logits(1), torch.tensor([7]), bias, sampling([0.0]))
    assert [index for index, _ in calls] == list(range(GAMMA))
    assert [previous for _, previous in calls] == [[7], *[[t] for t in tokens[0, :-1].tolist()]]
