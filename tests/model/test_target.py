import numpy as np
import pytest
import torch

from dspark.model.batch import RaggedBatch, Segment
from dspark.model.target import TargetRunner, check_tap_layers
from tests.model import tiny

TOKENS = tiny.prompt(120)


@pytest.fixture(scope="module")
def runner() -> TargetRunner:
    return tiny.runner()


def run(
    runner: TargetRunner, chunk: int, table: list[int], *, company: bool = False
) -> torch.Tensor:
    """Logits of TOKENS, run in chunks, alone or between two other sessions."""
    parts = []
    for start in range(0, len(TOKENS), chunk):
        mine = Segment(
            token_ids=TOKENS[start : start + chunk],
            start=start,
            block_table=table,
            logits_from=0,
        )
        before = Segment(token_ids=[5, 6, 7], start=0, block_table=[60], logits_from=None)
        after = Segment(token_ids=[9], start=0, block_table=[61], logits_from=0)
        segments = (before, mine, after) if company else (mine,)
        logits = runner.forward(RaggedBatch(segments=segments)).logits
        parts.append(logits[:-1] if company else logits)
    return torch.cat(parts)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3"])
def test_logits_equal_the_plain_models(name: str) -> None:
    runner = tiny.runner(name)
    with torch.inference_mode():
        expected = tiny.plain(name)(input_ids=torch.tensor([TOKENS])).logits[0]
    logits = run(runner, 50, list(range(8)), company=True)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_logits_and_rows_are_bitwise_independent_of_batch_chunk_and_pages(
    runner: TargetRunner,
) -> None:
    table = list(range(8))
    whole = run(runner, len(TOKENS), table)
    rows = runner.rows(table, 0, len(TOKENS))
    other = list(range(20, 12, -1))
    for chunk in (1, 7, 8, 64):  # 1: decoding; 8: verifying seven drafts; 64: prefill
        for company in (False, True):
            assert torch.equal(run(runner, chunk, other, company=company), whole), chunk
            assert np.array_equal(runner.rows(other, 0, len(TOKENS)), rows)


def test_rejected_tokens_leave_no_trace(runner: TargetRunner) -> None:
    table = list(range(8))
    whole = run(runner, len(TOKENS), table)
    other = list(range(30, 38))
    run(runner, len(TOKENS), other)
    # Drafts that are rejected: positions 60.. are overwritten by wrong tokens, then right ones.
    wrong = Segment(token_ids=[1] * 8, start=60, block_table=other, logits_from=0)
    runner.forward(RaggedBatch(segments=(wrong,)))
    right = Segment(token_ids=TOKENS[60:64], start=60, block_table=other, logits_from=0)
    assert torch.equal(runner.forward(RaggedBatch(segments=(right,))).logits, whole[60:64])


def test_rows_are_fc_and_norm_of_the_tapped_hidden_states(runner: TargetRunner) -> None:
    table = list(range(8))
    run(runner, 50, table)
    with torch.inference_mode():
        hidden = tiny.plain("qwen3")(
            input_ids=torch.tensor([TOKENS]), output_hidden_states=True
        ).hidden_states

    def projected(shift: int) -> torch.Tensor:
        weights = tiny.projection()
        x = torch.cat([hidden[layer + 1 + shift][0] for layer in tiny.TAPS], dim=-1)
        x = x @ weights.fc.t()
        return weights.hidden_norm * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + weights.eps)

    rows = torch.from_numpy(runner.rows(table, 0, len(TOKENS)))
    torch.testing.assert_close(rows, projected(0), atol=1e-4, rtol=1e-4)
    # Negative control: one layer off is far away.
    assert float((rows - projected(1)).abs().max()) > 0.1


def test_only_wanted_logits_are_made(runner: TargetRunner) -> None:
    silent = Segment(token_ids=TOKENS[:9], start=0, block_table=[0], logits_from=None)
    last = Segment(token_ids=TOKENS[:9], start=0, block_table=[1], logits_from=8)
    assert runner.forward(RaggedBatch(segments=(silent,))).logits.shape == (0, tiny.VOCAB)
    both = runner.forward(RaggedBatch(segments=(silent, last))).logits
    assert torch.equal(both, run(runner, len(TOKENS), list(range(8)))[8:9])


def test_imported_kv_and_rows_continue_bit_for_bit(runner: TargetRunner) -> None:
    table = list(range(8))
    whole = run(runner, len(TOKENS), table)
    elsewhere = tiny.runner()
    there = [7, 3, 1, 0, 2, 6, 5, 4]
    for start, stop in ((0, 64), (64, 100)):
        elsewhere.import_kv(there, start, runner.export_kv(table, start, stop))
        elsewhere.import_rows(there, start, runner.rows(table, start, stop))
    tail = Segment(token_ids=TOKENS[100:], start=100, block_table=there, logits_from=0)
    assert torch.equal(elsewhere.forward(RaggedBatch(segments=(tail,))).logits, whole[100:])
    assert np.array_equal(elsewhere.rows(there, 0, 100), runner.rows(table, 0, 100))
    array = runner.export_kv(table, 0, 5)[0]
    assert array.shape == (5, 2, 2, 32)


@pytest.mark.parametrize(("dtype", "kept"), [("float16", "float16"), ("bfloat16", "uint16")])
def test_rows_are_kept_in_the_asked_dtype(dtype: str, kept: str) -> None:
    runner = tiny.runner(rows_dtype=dtype)
    run(runner, 120, list(range(8)))
    rows = runner.rows(list(range(8)), 10, 20)
    assert rows.dtype == np.dtype(kept)
    runner.import_rows([9], 0, rows)
    assert np.array_equal(runner.rows([9], 0, 10), rows)


def test_shape_and_bytes_are_told(runner: TargetRunner) -> None:
    assert (runner.vocab_size, runner.hidden_size) == (tiny.VOCAB, tiny.HIDDEN)
    assert runner.max_context_tokens == 512
    assert runner.page_bytes == 16 * 4 * (tiny.LAYERS * 2 * 2 * 32 + tiny.HIDDEN)


def test_too_many_tokens_are_refused(runner: TargetRunner) -> None:
    segment = Segment(token_ids=[1] * 257, start=0, block_table=list(range(20)))
    with pytest.raises(ValueError, match="257 tokens in a pass of at most 256"):
        runner.forward(RaggedBatch(segments=(segment,)))


@pytest.mark.parametrize("layer", [-2, 3, 4])
def test_layers_that_cannot_be_tapped_are_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=f"target layer id {layer} is outside -1..2"):
        check_tap_layers([0, layer], 4)
