import torch

from dspark_kernels.filters import filter_logits
from dspark_kernels.sampling import SamplingBatch


def test_limits_keep_what_they_say() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))

    def kept(top_k: int, top_p: float, min_p: float) -> list[int]:
        filtered = filter_logits(
            logits, torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p])
        )
        return torch.nonzero(filtered[0] > -torch.inf).flatten().tolist()

    assert kept(2, 1.0, 0.0) == [0, 1]
    assert kept(0, 0.65, 0.0) == [0, 1]
    assert kept(0, 0.75, 0.0) == [0, 1, 2]
    assert kept(0, 1.0, 0.4) == [0, 1, 2]
    assert kept(3, 0.5, 0.0) == [0, 1]
    assert kept(9, 1.0, 0.0) == [0, 1, 2, 3]


def test_rows_without_limits_are_not_copied() -> None:
    logits = torch.randn(2, 8)
    neutral = SamplingBatch.of(temperatures=[1, 1], seeds=[1, 1], positions=[0, 0])
    assert filter_logits(logits, neutral.top_k, neutral.top_p, neutral.min_p) is logits


def test_equal_logits_at_the_cut_favour_lower_ids() -> None:
    filtered = filter_logits(
        torch.zeros(1, 5), torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0])
    )
    assert (filtered[0] > -torch.inf).tolist() == [True, True, False, False, False]


def test_limits_equal_a_plain_sort() -> None:
    generator = torch.Generator().manual_seed(3)
    for top_k, top_p, min_p in ((0, 0.9, 0.0), (50, 0.7, 0.0), (0, 0.99, 0.02), (7, 1.0, 0.1)):
        for scale in (0.5, 3.0, 12.0):
            row = torch.randn(1, 700, generator=generator) * scale
            filtered = filter_logits(
                row, torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p])
            )
            values, ids = row[0].double().sort(descending=True)
            keep = min(700, top_k or 700)
            keep = min(
                keep, int((values >= values[0] + torch.tensor(max(min_p, 1e-30)).log()).sum())
            )
            share = values[:keep].softmax(0).cumsum(0)
            keep = min(keep, int((share < top_p - 1e-9).sum()) + 1)
            assert (
                sorted(ids[:keep].tolist())
                == torch.nonzero(filtered[0] > -torch.inf).flatten().tolist()
            )
