import random

import numpy as np
import pytest
import torch

from dspark.core.draft import DraftRequest, Proposal
from dspark.core.sampling import Sampling, SamplingMode
from dspark.model.drafter import DSparkDrafter, dense_attention
from dspark.model.drafter_runner import BlockDrafter, Confidence
from dspark.model.sts import Calibration
from dspark_kernels.sampling import SamplingBatch, choose_tokens
from tests.model import tiny

GAMMA = tiny.GAMMA


def rows(count: int, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, tiny.HIDDEN, generator=generator).numpy()


def ask(key: object, base: int, anchor: int = 7, tokens: int = GAMMA) -> DraftRequest:
    return DraftRequest(key=key, anchor=anchor, base_length=base, max_tokens=tokens)  # type: ignore[arg-type]


@torch.inference_mode()
def from_scratch(
    drafter: DSparkDrafter, context: np.ndarray, anchor: int, sampling: Sampling
) -> tuple[list[int], list[float]]:
    """A block by the module's own parts, with no cache: the oracle."""
    length = len(context)
    kv = [
        drafter.layer(index).context_kv(torch.from_numpy(context), torch.arange(length))
        for index in range(drafter.config.num_layers)
    ]

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values = torch.cat([kv[layer][0], k]), torch.cat([kv[layer][1], v])
        return dense_attention(q, keys, values, None)

    positions = torch.arange(length, length + GAMMA)
    h = drafter.hidden(drafter.block_tokens(torch.tensor(anchor)), positions, attend)
    base = drafter.base_logits(h)
    previous, state = torch.tensor([anchor]), None
    tokens, confidences = [], []
    for index in range(GAMMA):
        logit = drafter.confidence_logits(h[index : index + 1], previous)
        confidences.append(float(torch.sigmoid(logit)))
        bias, state = drafter.head_bias(previous, h[index : index + 1], state)
        logits = base[index : index + 1] if bias is None else base[index : index + 1] + bias
        batch = SamplingBatch.of(
            temperatures=[sampling.temperature],
            seeds=[sampling.seed],
            positions=[length + 1 + index],
            top_k=[sampling.top_k],
            top_p=[sampling.top_p],
        )
        previous = choose_tokens(logits, batch)
        tokens.append(int(previous))
    return tokens, confidences


def check(proposal: Proposal, expected: tuple[list[int], list[float]]) -> None:
    assert list(proposal.tokens) == expected[0]
    assert proposal.confidences == pytest.approx(expected[1], abs=1e-4)


@pytest.mark.parametrize("head", ["vanilla", "gated", "rnn", "none"])
def test_cached_and_rolled_rounds_equal_recomputation(head: str) -> None:
    """50 random accept patterns over three sessions that are drafted together."""
    module = tiny.drafter(head)
    drafter = BlockDrafter(module)
    choose = random.Random(1)
    samplings = [
        Sampling(),
        Sampling(temperature=0.8, seed=5),
        Sampling(temperature=1.0, seed=6, top_k=9),
    ]
    contexts = [rows(200, seed) for seed in range(3)]
    lengths = [3, 70, 20]
    for key, sampling in enumerate(samplings):
        drafter.open(key, sampling)
        drafter.append(key, 0, contexts[key][: lengths[key]])
    for round_ in range(17):
        anchors = [choose.randrange(tiny.VOCAB) for _ in range(3)]
        order = choose.sample(range(3), 3)
        proposals = drafter.draft([ask(key, lengths[key], anchors[key]) for key in order])
        for key, proposal in zip(order, proposals, strict=True):
            if round_ % 3 == key:  # one of them each round keeps the test short
                context = contexts[key][: lengths[key]]
                check(proposal, from_scratch(module, context, anchors[key], samplings[key]))
            accepted = choose.randint(0, GAMMA)
            new = contexts[key][lengths[key] : lengths[key] + accepted + 1]
            lengths[key] = drafter.append(key, lengths[key], new)
            assert lengths[key] == drafter.cached(key)
        if min(200 - length for length in lengths) <= GAMMA:
            break


def test_a_row_missing_from_the_context_changes_the_block() -> None:
    # The negative control of the test above: such a slip raises nothing.
    module = tiny.drafter()
    right = from_scratch(module, rows(40), 7, Sampling())
    slipped = from_scratch(module, rows(40)[1:], 7, Sampling())
    assert max(abs(a - b) for a, b in zip(right[1], slipped[1], strict=True)) > 1e-3


def test_a_long_context_is_absorbed_in_chunks() -> None:
    module = tiny.drafter()
    drafter = BlockDrafter(module)
    context = rows(500)
    drafter.open("a", Sampling())
    for start in range(0, 500, 100):
        drafter.append("a", start, context[start : start + 100])
    check(drafter.draft([ask("a", 500)])[0], from_scratch(module, context, 7, Sampling()))


def test_rows_may_be_half_precision_or_bfloat16_bits() -> None:
    module = tiny.drafter()
    context = torch.from_numpy(rows(10))
    for kept, exact in (
        (context.half().numpy(), context.half().float()),
        (context.bfloat16().view(torch.uint16).numpy(), context.bfloat16().float()),
    ):
        drafter = BlockDrafter(module)
        drafter.open("a", Sampling())
        drafter.append("a", 0, kept)
        expected = from_scratch(module, exact.numpy(), 7, Sampling())
        check(drafter.draft([ask("a", 10)])[0], expected)


def test_fewer_tokens_are_a_prefix() -> None:
    drafter = BlockDrafter(tiny.drafter())
    for key in ("a", "b"):
        drafter.open(key, Sampling())
        drafter.append(key, 0, rows(12))
    whole, short = drafter.draft([ask("a", 12), ask("b", 12, tokens=2)])
    assert len(whole.tokens) == GAMMA
    assert short.tokens == whole.tokens[:2]
    assert short.confidences == pytest.approx(whole.confidences[:2])


def test_confidences_are_calibrated_by_the_sessions_mode() -> None:
    calibration = Calibration(greedy=(2.0,) * GAMMA, coupled=(0.5,) * GAMMA)
    plain, fitted = (
        BlockDrafter(tiny.drafter()),
        BlockDrafter(tiny.drafter(), calibration=calibration),
    )
    for sampling, temperature in ((Sampling(), 2.0), (Sampling(temperature=0.9, seed=1), 0.5)):
        given = []
        for drafter in (plain, fitted):
            drafter.open("a", sampling)
            drafter.append("a", 0, rows(12))
            given.append(torch.tensor(drafter.draft([ask("a", 12)])[0].confidences))
        logits = torch.logit(given[0])
        torch.testing.assert_close(given[1], torch.sigmoid(logits / temperature), atol=1e-4, rtol=0)


def test_rows_must_follow_the_cached_ones() -> None:
    drafter = BlockDrafter(tiny.drafter())
    drafter.open("a", Sampling())
    assert drafter.append("a", 0, rows(4)) == 4
    with pytest.raises(ValueError, match="rows from 3 on for a session with 4 cached"):
        drafter.append("a", 3, rows(2))
    with pytest.raises(ValueError, match="session b is not open"):
        drafter.append("b", 0, rows(2))
    with pytest.raises(ValueError, match="width"):
        drafter.append("a", 4, rows(2)[:, :5])
    with pytest.raises(ValueError, match="4 rows cached where the anchor is at 5"):
        drafter.draft([ask("a", 5)])


def test_repeated_and_overtaken_requests_do_no_harm() -> None:
    drafter = BlockDrafter(tiny.drafter())
    for key in ("a", "b"):
        drafter.open(key, Sampling())
        drafter.append(key, 0, rows(12))
    (alone,) = drafter.draft([ask("b", 12)])
    drafter.append("a", 12, rows(2))
    overtaken, first, second = drafter.draft([ask("a", 12), ask("b", 12), ask("b", 12, tokens=2)])
    assert overtaken == Proposal(tokens=(), confidences=())
    assert first.tokens[:2] == second.tokens == alone.tokens[:2]
    assert drafter.draft([ask("a", 12)]) == [overtaken]
    assert drafter.draft([]) == []


def test_sessions_and_context_are_bounded_and_given_back() -> None:
    drafter = BlockDrafter(tiny.drafter(), max_sessions=2, max_context_tokens=30)
    assert drafter.open("a", Sampling())
    assert drafter.open("b", Sampling())
    assert not drafter.open("c", Sampling())
    drafter.append("a", 0, rows(20))
    with pytest.raises(MemoryError):
        drafter.append("b", 0, rows(11))
    drafter.close("a")
    assert (drafter.sessions, drafter.context_tokens, drafter.cached("a")) == (1, 0, None)
    drafter.append("b", 0, rows(11))
    assert drafter.open("b", Sampling())  # anew
    assert drafter.cached("b") == 0
    drafter.close("nobody")


@pytest.mark.parametrize("head", ["vanilla", "rnn"])
def test_rejection_ships_the_laws_and_leaves_the_others_alone(head: str) -> None:
    """Drafted together with a coupled session, whose block must be what it is alone."""
    rejection = Sampling(temperature=0.9, seed=1, mode=SamplingMode.REJECTION)
    coupled = Sampling(temperature=0.9, seed=2)
    drafter = BlockDrafter(tiny.drafter(head), max_q_tokens=8, nonces=iter((5, 5, 6)))
    for key, sampling in (("r", rejection), ("c", coupled)):
        drafter.open(key, sampling)
        drafter.append(key, 0, rows(12))
    drawn, other = drafter.draft([ask("r", 12), ask("c", 12)])
    check(other, from_scratch(tiny.drafter(head), rows(12), 7, coupled))
    assert other.laws is None
    assert drawn.laws is not None
    assert drawn.laws.fits(drawn.tokens, tiny.VOCAB)
    assert max(drawn.laws.counts) == 8
    (again,), (anew,) = drafter.draft([ask("r", 12)]), drafter.draft([ask("r", 12, tokens=2)])
    assert again.tokens == drawn.tokens  # the same nonce
    assert anew.laws is not None
    assert anew.laws.counts == anew.laws.first(2).counts
    assert drawn.laws.first(1).ids.tolist() == anew.laws.first(1).ids.tolist()


def test_no_two_rounds_draw_with_the_same_randomness() -> None:
    drafter = BlockDrafter(tiny.drafter())
    drafter.open("r", Sampling(temperature=2.0, seed=1, mode=SamplingMode.REJECTION))
    drafter.append("r", 0, rows(12))
    assert len({drafter.draft([ask("r", 12)])[0].tokens for _ in range(5)}) > 1


@pytest.mark.parametrize("head", ["vanilla", "gated", "rnn", "none"])
def test_tabulated_confidences_are_those_of_the_head(head: str) -> None:
    module = tiny.drafter(head)
    h = torch.randn(3, GAMMA, tiny.HIDDEN, generator=torch.Generator().manual_seed(3))
    previous = torch.tensor([tiny.prompt(GAMMA, seed) for seed in range(3)])
    torch.testing.assert_close(
        Confidence(module).logits(h, previous), module.confidence_logits(h, previous)
    )
