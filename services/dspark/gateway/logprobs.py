"""Log-probabilities as clients read them: tokens as text and bytes, in OpenAI's two shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dspark.core.logits import TokenLogprobs

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpelledToken:
    """A token that was chosen, or could have been.

    Attributes:
        spelling: Its bytes.
        logprob: Of the target's own distribution.
    """

    spelling: bytes
    logprob: float

    @property
    def text(self) -> str:
        """Its bytes as far as they are text."""
        return self.spelling.decode(errors="replace")

    def json(self) -> Json:
        """Return an entry of a chat's ``logprobs``."""
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.spelling)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenLogprobs:
    """One token of the answer.

    Attributes:
        chosen: The token.
        top: The likeliest ones, best first.
        text_offset: Characters of the answer before it.
    """

    chosen: SpelledToken
    top: tuple[SpelledToken, ...]
    text_offset: int


def written_logprobs(
    token: int, logprobs: TokenLogprobs, text_offset: int, spell: Callable[[int], bytes]
) -> WrittenLogprobs:
    """Spell the tokens of one position."""
    return WrittenLogprobs(
        chosen=SpelledToken(spelling=spell(token), logprob=logprobs.logprob),
        top=tuple(
            SpelledToken(spelling=spell(other), logprob=value) for other, value in logprobs.top
        ),
        text_offset=text_offset,
    )


def completion_logprobs(written: Sequence[WrittenLogprobs]) -> Json:
    """Return ``logprobs`` of ``/v1/completions``: the chosen token is always among the top ones."""
    return {
        "text_offset": [each.text_offset for each in written],
        "token_logprobs": [each.chosen.logprob for each in written],
        "tokens": [each.chosen.text for each in written],
        "top_logprobs": [
            {token.text: token.logprob for token in (*each.top, each.chosen)} for each in written
        ],
    }


def chat_logprobs(written: Sequence[WrittenLogprobs]) -> Json:
    """Return ``logprobs`` of ``/v1/chat/completions``."""
    content = [
        each.chosen.json() | {"top_logprobs": [token.json() for token in each.top]}
        for each in written
    ]
    return {"content": content, "refusal": None}
