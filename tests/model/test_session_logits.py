"""Rows processed along a draft equal rows processed one token at a time, for every parameter."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dspark.core.generation import Generation
from dspark.core.logits import Grammar, GrammarKind, LogitRules
from dspark.core.sampling import Sampling
from dspark.model.session_logits import SessionLogits, token_logprobs
from tests.model import tiny
from tests.model.byte_tokenizer import STOP, grammars, tokenizer

GRAMMARS = grammars()
PROMPT = (5, 9, 9)
DRAFTS = tuple(tokenizer().encode("ab12a").ids)  # three tokens
RULES = {
    "bias": LogitRules(bias=((9, -100.0), (70, 3.5))),
    "repetition": LogitRules(repetition_penalty=1.4),
    "frequency": LogitRules(frequency_penalty=0.7),
    "presence": LogitRules(presence_penalty=-1.1),
    "regex": LogitRules(grammar=Grammar(kind=GrammarKind.REGEX, text="[ab12]{2,9}")),
    "all": LogitRules(
        bias=((9, 1.0),),
        repetition_penalty=0.8,
        frequency_penalty=-0.3,
        presence_penalty=0.9,
        grammar=Grammar(kind=GrammarKind.REGEX, text="(ab|12|x)*a"),
    ),
}


def processor(rules: LogitRules, **more: object) -> SessionLogits:
    generation = Generation(
        request_id="r",
        prompt=PROMPT,
        max_new_tokens=20,
        sampling=Sampling(),
        stop_tokens=frozenset({STOP}),
        rules=rules,
        **more,  # type: ignore[arg-type]
    )
    return SessionLogits(generation, tiny.VOCAB, GRAMMARS)


@pytest.fixture
def logits() -> np.ndarray:
    shape = (len(DRAFTS) + 1, tiny.VOCAB)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32) * 3


@pytest.mark.parametrize("name", RULES)
def test_a_block_is_processed_as_plain_decoding_would(name: str, logits: np.ndarray) -> None:
    before = logits.copy()
    block = processor(RULES[name]).process(logits, DRAFTS)
    np.testing.assert_array_equal(logits, before)
    plain = processor(RULES[name])
    for row in range(len(logits)):
        np.testing.assert_array_equal(block[row], plain.process(logits[row : row + 1], ())[0])
        if row < len(DRAFTS):
            plain.commit(DRAFTS[row : row + 1])
    assert (block != logits).any()


@pytest.mark.parametrize("name", RULES)
def test_a_block_leaves_no_trace(name: str, logits: np.ndarray) -> None:
    used, fresh = processor(RULES[name]), processor(RULES[name])
    used.process(logits, DRAFTS)
    used.commit(DRAFTS[:2])
    fresh.commit(DRAFTS[:2])
    np.testing.assert_array_equal(used.process(logits[:1], ()), fresh.process(logits[:1], ()))


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_generation_goes_on_where_it_was(name: str, logits: np.ndarray) -> None:
    whole = processor(RULES[name])
    whole.commit(DRAFTS[:2])
    resumed = processor(RULES[name], committed=DRAFTS[:2])
    np.testing.assert_array_equal(
        whole.process(logits[:2], DRAFTS[2:]), resumed.process(logits[:2], DRAFTS[2:])
    )


def test_all_rules_equal_a_plain_reference(logits: np.ndarray) -> None:
    """Bias, then repetition, frequency and presence, then the mask, each token by itself."""
    rules = replace(RULES["all"], grammar=RULES["regex"].grammar)
    row = logits[0].copy()
    output = DRAFTS[:2]
    letters = {*tokenizer().encode("ab12").ids, *(tokenizer().token_to_id(c) for c in "ab12")}
    expected = []
    for token, logit in enumerate(row):
        value = logit + np.float32(dict(rules.bias).get(token, 0.0))
        if token in PROMPT or token in output:
            ratio = np.float32(rules.repetition_penalty)
            value = value / ratio if value > 0 else value * ratio
        value -= np.float32(rules.frequency_penalty * output.count(token))
        value -= np.float32(rules.presence_penalty * (token in output))
        expected.append(value if token in letters or token == STOP else -np.inf)
    resumed = processor(rules, committed=output)
    np.testing.assert_allclose(resumed.process(row[None], ())[0], expected, rtol=1e-6)


def test_drafts_after_a_forbidden_one_are_not_worth_verifying() -> None:
    it = processor(LogitRules(grammar=Grammar(kind=GrammarKind.REGEX, text="ab(12|a)x*")))
    x = tokenizer().token_to_id("x")
    drafts = (*DRAFTS[:2], x, DRAFTS[0], x)  # ab 12 x ab x
    assert it.useful_drafts(drafts, judged_by_rejection=False) == 3
    assert it.useful_drafts(drafts, judged_by_rejection=True) == 4
    assert it.useful_drafts(drafts[:3], judged_by_rejection=True) == 3
    assert processor(RULES["bias"]).useful_drafts(drafts, judged_by_rejection=False) == 5


def test_logprobs_are_those_of_the_logits_before_any_rule(logits: np.ndarray) -> None:
    it = processor(RULES["all"], top_logprobs=3)
    it.process(logits, DRAFTS)
    got = it.commit(DRAFTS[:2])
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1)
    assert len(got) == 2
    for row, (token, each) in enumerate(zip(DRAFTS, got, strict=False)):
        assert each.logprob == pytest.approx(expected[row, token].item(), abs=1e-12)
        values, tokens = expected[row].topk(3)
        assert [token for token, _ in each.top] == tokens.tolist()
        assert [value for _, value in each.top] == pytest.approx(values.tolist(), abs=1e-12)
    it.process(logits[:1], ())
    assert len(it.commit(DRAFTS[2:3])) == 1


def test_of_equally_likely_tokens_the_lower_ids_are_listed() -> None:
    row = np.array([0.0, 1.0, 0.0, 0.0], dtype=np.float32)
    assert [token for token, _ in token_logprobs(row, 3, 3).top] == [1, 0, 2]
    assert token_logprobs(row, 3, 0).top == ()
    assert len(token_logprobs(row, 3, 20).top) == 4


def test_rules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logit_bias: token 256 is outside 0\.\.255"):
        processor(LogitRules(bias=((256, 1.0),)))
    with pytest.raises(ValueError, match="cannot be followed"):
        processor(RULES["regex"], committed=(90,))
    generation = Generation(
        request_id="r", prompt=(1,), max_new_tokens=2, sampling=Sampling(),
        stop_tokens=frozenset({STOP}), rules=RULES["regex"],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"needs a target with a tokenizer\.json"):
        SessionLogits(generation, tiny.VOCAB, None)
