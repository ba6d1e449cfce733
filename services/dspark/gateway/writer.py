"""From tokens to the text a client sees: detokenizing and stop strings together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dspark.core.logits import TokenLogprobs
from dspark.core.session import FinishReason
from dspark.gateway.detokenize import Detokenizer
from dspark.gateway.logprobs import Json, WrittenLogprobs, written_logprobs
from dspark.gateway.stops import StopMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one batch of tokens adds for the client.

    Attributes:
        text: New text; may be empty.
        token_ids: The tokens counted, up to the one that completed a stop string.
        finish: Why this is the last delta, or None.
        logprobs: Of each token, where they are wanted.
        step: The step that committed the tokens, where a trace is wanted.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: FinishReason | None
    logprobs: tuple[WrittenLogprobs, ...] = ()
    step: Json | None = None


class Writer:
    """Writes one choice.

    Tokens are taken one at a time, so that the result does not depend on how a verifier grouped
    them.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopMatcher,
        stop_token_ids: frozenset[int],
        spell: Callable[[int], bytes],
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._stop_token_ids = stop_token_ids
        self._spell = spell
        self._num_chars = 0
        self.num_tokens = 0

    def push(
        self,
        tokens: Sequence[int],
        finish: FinishReason | None,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> Delta:
        """Take committed tokens; after a delta with ``finish`` nothing more may come."""
        pieces = []
        written = []
        for index, token in enumerate(tokens):
            self.num_tokens += 1
            if logprobs:
                written.append(
                    written_logprobs(token, logprobs[index], self._num_chars, self._spell)
                )
            if token in self._stop_token_ids:
                continue  # The stop token ends the text, it is no part of it.
            piece = self._detokenizer.push(token)
            self._num_chars += len(piece)
            pieces.append(self._stops.push(piece))
            if self._stops.stopped:
                return Delta(
                    text="".join(pieces),
                    token_ids=tuple(tokens[: index + 1]),
                    finish=FinishReason.STOP,
                    logprobs=tuple(written),
                )
        if finish is not None:
            pieces.append(self._stops.push(self._detokenizer.finish()))
            if self._stops.stopped:
                finish = FinishReason.STOP
            pieces.append(self._stops.finish())
        return Delta(
            text="".join(pieces), token_ids=tuple(tokens), finish=finish, logprobs=tuple(written)
        )
