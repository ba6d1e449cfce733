"""The text of a paced model: which token follows, and which drafts are right.

Integers only, and no state: the next token is a hash of (seed, choice, position, token before),
so a target, a drafter and a test agree without computing anything.  A draft at a position is right
with exactly the confidence it comes with, so confidences are calibrated by construction.
"""

from collections.abc import Collection, Sequence

from dspark.core.sampling import Sampling

_MASK = 2**64 - 1
_SPREAD = 0.12  # how far a position's confidence lies around that of its text


class PacedText:
    """Tokens of one vocabulary.

    Args:
        vocab_size: Tokens are 0 .. vocab_size - 1.
        avoid: Tokens that never come, such as those that end a generation.
        acceptance: Chance that a draft is right, for each kind of text.
    """

    def __init__(
        self, vocab_size: int, *, avoid: Collection[int], acceptance: Sequence[float]
    ) -> None:
        self.vocab_size = vocab_size
        self._tokens = [token for token in range(vocab_size) if token not in avoid]
        self._acceptance = tuple(acceptance)

    def next_token(self, before: int, position: int, sampling: Sampling) -> int:
        """Return the token at ``position``, the one before it being ``before``."""
        return self._tokens[self._index(before, position, sampling)]

    def confidence(self, position: int, sampling: Sampling) -> float:
        """Return the chance that a draft of this position is right."""
        text = self._acceptance[_mix(_key(sampling), 0, 1) % len(self._acceptance)]
        offset = _SPREAD * (2 * _unit(_mix(_key(sampling), position, 2**33)) - 1)
        return min(max(text + offset, 0.02), 0.98)

    def draft(self, before: int, position: int, sampling: Sampling) -> tuple[int, float]:
        """Return (a draft of the token at ``position``, its confidence)."""
        confidence = self.confidence(position, sampling)
        index = self._index(before, position, sampling)
        if _unit(_mix(_key(sampling), position, 2**34)) >= confidence:
            index = (index + 1) % len(self._tokens)
        return self._tokens[index], confidence

    def _index(self, before: int, position: int, sampling: Sampling) -> int:
        return _mix(_key(sampling), position, before) % len(self._tokens)


def _key(sampling: Sampling) -> int:
    return _mix(sampling.seed, sampling.choice, 7)


def _mix(a: int, b: int, c: int) -> int:
    """Hash three integers to 64 bits (the finaliser of splitmix64, thrice)."""
    state = 0
    for value in (a, b, c):
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _unit(value: int) -> float:
    return value / 2**64
