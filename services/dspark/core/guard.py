"""Guard: is what was committed what the target alone would have committed?  The decisions.

A guarded request is decoded again without speculation.  Greedy and coupled output is a function
of the request, so one token that differs is proof.  Output by rejection is random, so its *law*
is tested.  Given everything before it, a committed token x must be a draw from the target's plain
p.  Choose, without looking at x, a set A of tokens; then

    X = 1[x in A] - p(A)

has mean zero, whatever the drafter, the budget or the prompt is, and a sum of X is a martingale.
A may depend on q, because p is the law of x given q too: drafts are judged so, and the schedule
that lets a position be verified is causal.  What breaks a verifier moves its output towards what
was drafted: a law p + e (q - p).  So A = {v: q(v) > p(v)} where the position was drafted: there X
has the mean e TV(p, q), the most that any set can have and of one sign at every position, so that
nothing cancels.  A residual that is drawn wrongly, or drafts accepted too rarely, move the same
sum.  Where nothing was drafted A is the likeliest token.

The evidence is what a gambler makes of a stake of 1 who bets on X with fixed odds: the mean over
several bets b of prod(1 + b X).  It has mean 1 at every time in a correct system, so that it ever
reaches 1 / alpha has chance at most alpha, over an unlimited run and however often one looks
(Ville).  No law of large numbers is used.
"""

import math

import numpy as np
from numpy.typing import NDArray

_BETS = np.array([sign * size for sign in (1.0, -1.0) for size in (0.9, 0.5, 0.25, 0.12, 0.06)])
"""A shift of m in a sum of variance s is found fastest by a bet of m / s."""


class Drift:
    """Evidence, in all positions seen, that tokens are not draws from p; mutable."""

    def __init__(self) -> None:
        self._log_wealth = np.zeros((2, len(_BETS)))
        self.num_positions = 0

    def observe(self, *, hit: bool, chance: float, drafted: bool) -> None:
        """Fold in one position.

        Args:
            hit: Whether the committed token is in A.
            chance: p(A), in 0..1.
            drafted: Whether A was made of the drafter's law: the two kinds have wealths of their
                own, so that neither dilutes the other.
        """
        self.num_positions += 1
        self._log_wealth[int(drafted)] += np.log1p(_BETS * (float(hit) - chance))

    @property
    def log10(self) -> float:
        """The evidence as a power of ten; a correct system reaches a with chance <= 10**-a."""
        top = self._log_wealth.max()
        return float((top + math.log(np.exp(self._log_wealth - top).mean())) / math.log(10.0))


def favoured(
    p: NDArray[np.float64],
    token: int,
    law: tuple[NDArray[np.int64], NDArray[np.float16]] | None,
) -> tuple[bool, float]:
    """Whether the token is in the set that a wrong verifier would favour, and p of that set.

    Args:
        p: The target's law [vocab].
        token: What was committed.
        law: The drafter's law of this position, sparse: ids and weights; None without a draft.
    """
    if law is None:
        best = int(p.argmax())
        return token == best, float(p[best])
    ids, weights = law
    q = weights.astype(np.float64)
    above = ids[q / q.sum() > p[ids]]
    return bool((above == token).any()), min(1.0, float(p[above].sum()))
