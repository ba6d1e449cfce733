"""Stop strings over a text that arrives in pieces.

The text ends before the stop string that is *complete* first (of several complete at the same
character, the longest): that does not depend on how the text was cut into tokens.
"""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until a stop string occurs; holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Add text; return what is certainly before any stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = []
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0:
                ends.append((start + len(stop), start))
        if ends:
            _, start = min(ends)
            self.stopped = True
            self._held = ""
            return text[:start]
        held_chars = self._partial_match_chars(text)
        certain = len(text) - held_chars
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Return what was held back: no text follows."""
        held, self._held = self._held, ""
        return held

    def _partial_match_chars(self, text: str) -> int:
        """Length of the longest end of ``text`` with which a stop string begins."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
