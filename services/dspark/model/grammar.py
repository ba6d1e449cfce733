"""Which tokens may come next where the output must follow a grammar; llguidance does the parsing.

Read straight from ``tokenizer.json``: no torch here, the gateway checks grammars with it too.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from dspark.core.logits import Grammar, GrammarKind

_KEPT_GRAMMARS = 64
"""Compiled grammars kept: the choices of one request share one, and clients repeat theirs."""


class GrammarMatcher:
    """One output's place in its grammar; for one thread.

    A stop token ends the output.  It is allowed where the output so far is complete, and the
    parser never sees it.
    """

    def __init__(self, matcher: LLMatcher, stop_tokens: frozenset[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._stop_tokens = stop_tokens
        self._vocab_size = vocab_size
        self.failure: str | None = None
        """Why the parser gave up (its limits, or a token that it had not allowed), or None."""

    def commit(self, tokens: Sequence[int]) -> None:
        """Go on after these tokens."""
        before = self._before_stop(tokens)
        if before and not self._matcher.consume_tokens(before):
            self._fail()

    def valid(self, drafts: Sequence[int]) -> int:
        """How many of these tokens may follow, up to the first one that may not."""
        before = self._before_stop(drafts)
        count = max(0, self._matcher.validate_tokens(before)) if before else 0
        if count < len(before) or count == len(drafts):
            return count
        return count + int(self.masks(before)[-1, drafts[count]])

    def masks(self, drafts: Sequence[int]) -> NDArray[np.bool_]:
        """What may be chosen after each prefix of the drafts: [len(drafts) + 1, V].

        The place in the grammar stays.  Nothing follows a draft that is not allowed or that ends
        the output: rows after it are not masked.
        """
        allowed = np.ones((len(drafts) + 1, self._vocab_size), dtype=np.bool_)
        consumed = 0
        for row in range(len(drafts) + 1):
            mask = self._mask()
            if self.failure is not None:
                return allowed
            allowed[row] = mask
            if row == len(drafts):
                break
            token = drafts[row]
            if not mask[token] or token in self._stop_tokens:
                break
            if not self._matcher.consume_token(token):
                self._fail()
                return allowed
            consumed += 1
        if consumed and not self._matcher.rollback(consumed):
            self._fail()
        return allowed

    def _mask(self) -> NDArray[np.bool_]:
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, count=self._vocab_size, bitorder="little")
        if self._matcher.is_error() or not bits.any():
            self._fail()
        mask: NDArray[np.bool_] = bits.view(np.bool_)
        return mask

    def _before_stop(self, tokens: Sequence[int]) -> list[int]:
        before = []
        for token in tokens:
            if token in self._stop_tokens:
                break
            before.append(token)
        return before

    def _fail(self) -> None:
        if self.failure is None:
            reason = _first_line(self._matcher.get_error()) or "no token can go on"
            self.failure = f"the grammar cannot be followed any further: {reason}"


class Grammars:
    """Compiles grammars over one tokenizer; for any thread.

    Args:
        tokenizer_json: Content of the model's ``tokenizer.json``.
        vocab_size: V of the model; ids that the tokenizer does not know are never allowed.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int) -> None:
        self._json = tokenizer_json
        self._vocab_size = vocab_size
        self._tokenizer = lru_cache(maxsize=4)(self._load_tokenizer)
        self._compiled = lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    @classmethod
    def of_folder(cls, folder: Path, vocab_size: int) -> "Grammars | None":
        """Return those of a model folder; None where it has no ``tokenizer.json``."""
        file = folder / "tokenizer.json"
        return cls(file.read_text(encoding="utf-8"), vocab_size) if file.is_file() else None

    def matcher(self, grammar: Grammar, stop_tokens: frozenset[int]) -> GrammarMatcher:
        """Return the grammar's start.

        Raises:
            ValueError: It is none, or uses a feature that is not supported; names it.
        """
        start = self._compiled(grammar, stop_tokens).deep_copy()
        return GrammarMatcher(start, stop_tokens, self._vocab_size)

    def speller(self, stop_tokens: frozenset[int]) -> Callable[[int], bytes]:
        """Return what says the bytes that a token stands for (of a special one, its name).

        Reads the tokenizer, which takes about a second where it is large.
        """
        tokenizer = self._tokenizer(stop_tokens)
        return lambda token: tokenizer.decode_bytes([token])

    def _load_tokenizer(self, stop_tokens: frozenset[int]) -> LLTokenizer:
        try:
            return LLTokenizer(
                self._json, n_vocab=self._vocab_size, eos_token=sorted(stop_tokens) or None
            )
        except ValueError as error:
            raise ValueError(f"tokenizer.json: {error}") from error

    def _compile(self, grammar: Grammar, stop_tokens: frozenset[int]) -> LLMatcher:
        if grammar.kind is GrammarKind.JSON_SCHEMA:
            text = LLMatcher.grammar_from_json_schema(grammar.text)
        else:
            text = LLMatcher.grammar_from_regex(grammar.text)
        matcher = LLMatcher(self._tokenizer(stop_tokens), text, log_level=0)
        if matcher.is_error():
            raise ValueError(_complaint(matcher.get_error()))
        return matcher


def _complaint(error: str) -> str:
    """The part of a compiler's message that says what is wrong."""
    lines = [line.strip() for line in error.splitlines() if line.strip() and line.strip() != "^"]
    told = [line for line in lines if line.startswith("error:")]
    return (told or lines or ["it cannot be compiled"])[0]


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
