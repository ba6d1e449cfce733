"""Masks along a draft, and what comes out when tokens are drawn under them."""

import json
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark.core.logits import Grammar, GrammarKind
from tests.model import tiny
from tests.model.byte_tokenizer import STOP, grammars, tokenizer

TOKENIZER = tokenizer()
GRAMMARS = grammars()
STOPS = frozenset({STOP})
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "count": {"type": "integer", "minimum": 0, "maximum": 12},
        "kind": {"enum": ["ab", "true", None]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["kind"],
    "additionalProperties": False,
}
REGEXES = (r"(ab|12){2,3}x?", r"[a-f]{1,4}-\d{2}", r"a*", r"(true|12ab)( \w)?")


def schema(value: object) -> Grammar:
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(value))


def regex(text: str) -> Grammar:
    return Grammar(kind=GrammarKind.REGEX, text=text)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


def allowed(mask: np.ndarray) -> set[str]:
    return {TOKENIZER.id_to_token(int(token)) for token in np.flatnonzero(mask)}


def test_each_row_of_a_block_is_masked_after_the_drafts_before_it() -> None:
    matcher = GRAMMARS.matcher(regex("(ab|12)x"), STOPS)
    masks = matcher.masks([*ids("ab"), *ids("x")])
    assert masks.shape == (3, tiny.VOCAB)
    assert [allowed(mask) for mask in masks] == [{"a", "ab", "1", "12"}, {"x"}, {"<eos>"}]
    # Nothing of that was kept.
    assert allowed(matcher.masks([])[0]) == {"a", "ab", "1", "12"}
    assert matcher.failure is None


def test_rows_of_a_block_equal_rows_of_plain_decoding() -> None:
    drafts = ids('{"kind": "ab", "count": 12}')
    blocks = GRAMMARS.matcher(schema(SCHEMA), STOPS).masks([*drafts, STOP])
    plain = GRAMMARS.matcher(schema(SCHEMA), STOPS)
    for row, draft in enumerate(drafts):
        np.testing.assert_array_equal(blocks[row], plain.masks([])[0])
        plain.commit([draft])
    assert allowed(blocks[len(drafts)]) >= {"<eos>"}


def test_after_a_forbidden_draft_nothing_is_masked_and_nothing_fails() -> None:
    matcher = GRAMMARS.matcher(regex("ab1"), STOPS)
    drafts = [*ids("ab"), *ids("x"), *ids("1")]
    masks = matcher.masks(drafts)
    assert allowed(masks[1]) == {"1"}
    assert masks[2:].all()
    assert matcher.valid(drafts) == 1
    matcher.commit(ids("ab1"))
    assert allowed(matcher.masks([STOP, 5])[0]) == {"<eos>"}
    assert matcher.valid([STOP]) == 1
    assert matcher.failure is None


def test_a_stop_token_is_valid_only_where_the_output_is_complete() -> None:
    matcher = GRAMMARS.matcher(regex("ab?"), STOPS)
    assert matcher.valid([STOP]) == 0
    assert matcher.valid([*ids("a"), STOP]) == 2


def test_a_token_that_was_not_allowed_is_a_failure() -> None:
    matcher = GRAMMARS.matcher(regex("ab"), STOPS)
    matcher.commit(ids("x"))
    assert matcher.failure is not None
    assert "cannot be followed" in matcher.failure


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"not": {"type": "string"}}), '"not"'),
        (schema({"type": "nope"}), "nope"),
        (schema({"type": "string", "format": "fancy"}), "fancy"),
        (schema({"$ref": "http://elsewhere/"}), "elsewhere"),
        (regex("a(?=b)"), "look-around"),
        (regex("[a"), "unclosed"),
        (regex(r"(a)\1"), "backreferences"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_name(grammar: Grammar, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        GRAMMARS.matcher(grammar, STOPS)


def draw(grammar: Grammar, seed: int, gamma: int) -> tuple[str, bool]:
    """Random tokens under the masks, in blocks: (text, whether it ended with a stop token)."""
    rng = np.random.default_rng(seed)
    matcher = GRAMMARS.matcher(grammar, STOPS)
    tokens: list[int] = []
    while len(tokens) < 120:
        block: list[int] = []
        for _ in range(1 + gamma):
            mask = matcher.masks(block)[-1]
            assert matcher.failure is None
            # A stop token is likely, so that most outputs end.
            stops = mask[STOP] and rng.random() < 0.5
            block.append(STOP if stops else int(rng.choice(np.flatnonzero(mask))))
            if block[-1] == STOP:
                return TOKENIZER.decode([*tokens, *block[:-1]]), True
        kept = block[: int(rng.integers(1, len(block) + 1))]  # the rest is refused
        matcher.commit(kept)
        tokens += kept
    return TOKENIZER.decode(tokens), False


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), gamma=st.integers(0, 4), number=st.integers(0, len(REGEXES)))
def test_every_output_that_ends_fits_its_grammar(seed: int, gamma: int, number: int) -> None:
    if number == len(REGEXES):
        text, ended = draw(schema(SCHEMA), seed, gamma)
        if ended:
            jsonschema.validate(json.loads(text), SCHEMA)
        return
    text, ended = draw(regex(REGEXES[number]), seed, gamma)
    assert re.fullmatch(REGEXES[number], text) or not ended


def test_most_of_those_outputs_do_end() -> None:
    assert sum(draw(schema(SCHEMA), seed, 2)[1] for seed in range(20)) >= 10
