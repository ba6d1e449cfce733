"""From tokens to the text a client sees: detokenizing and stop strings together."""

from collections.abc import Sequence
from dataclasses import dataclass

from dspark.core.session import FinishReason
from dspark.gateway.detokenize import Detokenizer
from dspark.gateway.stops import StopMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one batch of tokens adds for the client.

    Attributes:
        text: New text; may be empty.
        token_ids: The tokens counted, up to the one that completed a stop string.
        finish: Why this is the last delta, or None.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: FinishReason | None


class Writer:
    """Writes one choice.

    Tokens are taken one at a time, so that the result does not depend on how a verifier grouped
    them.
    """

    def __init__(
        self, detokenizer: Detokenizer, stops: StopMatcher, stop_token_ids: frozenset[int]
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._stop_token_ids = stop_token_ids
        self.num_tokens = 0

    def push(self, tokens: Sequence[int], finish: FinishReason | None) -> Delta:
        """Take committed tokens; after a delta with ``finish`` nothing more may come."""
        pieces = []
        for index, token in enumerate(tokens):
            self.num_tokens += 1
            if token in self._stop_token_ids:
                continue  # The stop token ends the text, it is no part of it.
            pieces.append(self._stops.push(self._detokenizer.push(token)))
            if self._stops.stopped:
                return Delta(
                    text="".join(pieces),
                    token_ids=tuple(tokens[: index + 1]),
                    finish=FinishReason.STOP,
                )
        if finish is not None:
            pieces.append(self._stops.push(self._detokenizer.finish()))
            if self._stops.stopped:
                finish = FinishReason.STOP
            pieces.append(self._stops.finish())
        return Delta(text="".join(pieces), token_ids=tuple(tokens), finish=finish)
