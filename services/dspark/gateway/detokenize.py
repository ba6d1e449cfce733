"""Token ids to text, piece by piece; what was returned once is never changed.

A token may end in the middle of a UTF-8 character, and some decoders write a token differently
after another one.  Hence only a *window* is decoded: the tokens of the last piece, as left
context, and those after it.  What the window's end may still change is held back.  The method
is that of Text Generation Inference (prefix and read offsets), with a bound on the wait.
"""

from collections.abc import Callable, Sequence

REPLACEMENT = "�"

_PATIENCE_TOKENS = 16
"""A character has at most four bytes: after this many tokens its start is not to be completed."""


class Detokenizer:
    """Text of one growing token sequence.

    Args:
        decode: Text of a token sequence; special tokens are left out by it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._context_tokens = 0
        self._sent_chars = 0

    def push(self, token: int) -> str:
        """Add a token; return the text that is now certain."""
        self._window.append(token)
        text = self._decode(self._window)
        certain = text.rstrip(REPLACEMENT)
        pending_tokens = len(self._window) - self._context_tokens
        if certain != text and pending_tokens > _PATIENCE_TOKENS:
            certain = text[:-1]
        piece = certain[self._sent_chars :]
        self._sent_chars = max(self._sent_chars, len(certain))
        if piece and certain == text:
            self._window = self._window[self._context_tokens :]
            self._context_tokens = len(self._window)
            self._sent_chars = len(self._decode(self._window))
        return piece

    def finish(self) -> str:
        """Return what was held back: no token follows."""
        piece = self._decode(self._window)[self._sent_chars :]
        self._sent_chars += len(piece)
        return piece
