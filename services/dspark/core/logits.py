"""What a request may do to the target's logits before a token is chosen, and want to know of them.

Bias, penalties and grammar change p itself.  All three depend on the tokens before a position, so
with drafts in the batch they differ from row to row: the row after the drafts x_1 .. x_k is
treated as if those were committed.  That is what keeps p at every verified position the
distribution that plain decoding would have had there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MAX_BIASED_TOKENS = 1024
"""Most tokens of one ``logit_bias``."""

MAX_TOP_LOGPROBS = 20
"""Most alternatives listed with a token, OpenAI's bound."""

MAX_GRAMMAR_CHARS = 1 << 18
"""Longest JSON schema or regular expression."""


class GrammarKind(Enum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What the whole output must be.

    Attributes:
        kind: How it is written.
        text: The JSON schema, or the regular expression (it matches all of the output).
    """

    kind: GrammarKind
    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_GRAMMAR_CHARS:
            raise ValueError(
                f"a {self.kind.value} of {len(self.text)} characters; "
                f"at most {MAX_GRAMMAR_CHARS} are allowed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitRules:
    """How the target's logits are changed, in this order; the defaults change nothing.

    Attributes:
        bias: (token, value) pairs, each token once: value is added to its logit.
        repetition_penalty: Tokens of prompt or output: a positive logit is divided by this, a
            negative one multiplied (arXiv 1909.05858, as Hugging Face and vLLM have it).
        frequency_penalty: Taken off as often as the token occurs in the output.
        presence_penalty: Taken off once where the token occurs in the output.
        grammar: Tokens with which the output cannot be continued to a word of it get -inf.
    """

    bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if len(self.bias) > MAX_BIASED_TOKENS:
            raise ValueError(
                f"logit_bias names {len(self.bias)} tokens; at most {MAX_BIASED_TOKENS} are allowed"
            )
        if len({token for token, _ in self.bias}) < len(self.bias):
            raise ValueError("logit_bias names a token twice")
        for token, value in self.bias:
            if token < 0:
                raise ValueError(f"logit_bias: token {token} is negative")
            if not -100.0 <= value <= 100.0:
                raise ValueError(f"logit_bias {value} of token {token} is outside -100..100")
        # Far smaller or larger ones would overflow a float32 logit.
        if not 0.1 <= self.repetition_penalty <= 10.0:
            raise ValueError(f"repetition_penalty {self.repetition_penalty} is outside 0.1..10")
        for name, penalty in (
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ):
            if not -2.0 <= penalty <= 2.0:
                raise ValueError(f"{name} {penalty} is outside -2..2")

    @property
    def penalizes(self) -> bool:
        """Whether any penalty is set."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )

    @property
    def neutral(self) -> bool:
        """Whether the logits stay as they are."""
        return not (self.bias or self.penalizes or self.grammar)


NO_RULES = LogitRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities at one position: of the target's own logits, before any rule.

    Attributes:
        logprob: Of the token that was committed.
        top: (token, log-probability) of the likeliest ones, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class LogitsProcessor(Protocol):
    """Rules and log-probabilities of one generation; knows its committed tokens."""

    @property
    def failure(self) -> str | None:
        """Why the grammar cannot be followed any further: nothing may be committed then."""

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        """How many leading drafts are worth a place in the batch.

        Those before the first one that the grammar forbids, which is certain to be refused.
        Judged by rejection that one stays too: its refusal draws from max(p - q, 0), and to
        sample p in its stead would bend the output's law.
        """

    def process(self, logits: NDArray[np.float32], drafts: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits of p: row i of [n, vocab] follows the committed tokens and i drafts.

        Leaves the committed state, and ``logits``, as they were.
        """

    def commit(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        """Go on after these tokens, chosen from the rows last processed, in order.

        Returns their log-probabilities, if those are wanted.
        """
