"""Acceptance: how many drafts are committed, and where the generation ends.

Greedy and coupled sampling accept the longest prefix of the drafts that the target itself would
have chosen.  The target's token at every verified position is
known (argmax of its logits, or of logits plus keyed noise); a draft is accepted iff it
equals that token and all before it did.  What is committed are therefore the target's own
tokens: the drafts decide only how many of them one step yields.

Sampling by rejection accepts by chance, where the laws of target and drafter are known (the
target port); only the cut is made here.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from dspark.core.session import FinishReason


class Verdict(NamedTuple):
    """Outcome of verifying one session's prefix.

    A tuple: one is made for every session and step, and a frozen dataclass takes four times as
    long.

    Attributes:
        accepted: Drafts accepted, 0 .. verified.
        committed: Tokens to append: the accepted drafts and the target's own next token,
            cut at a stop token or at the length bound.
        finish: Why the session ends with this commit; None if it goes on.
    """

    accepted: int
    committed: tuple[int, ...]
    finish: FinishReason | None


def judge(
    drafts: Sequence[int],
    target_tokens: Sequence[int],
    *,
    stop_tokens: Collection[int],
    remaining: int,
) -> Verdict:
    """Accept the longest matching prefix and cut it where the generation ends.

    Args:
        drafts: x_1 .. x_l, the verified prefix.
        target_tokens: The target's token at the anchor and after each draft: l + 1 of them.
        stop_tokens: The first of these ends the generation and is its last token.
        remaining: How many more tokens may be committed, at least 1.

    Returns:
        The verdict.  A stop token inside the accepted drafts ends the session there, with no
        token after it; ``accepted`` counts only drafts that were committed.

    Raises:
        ValueError: The lengths do not fit, or nothing may be committed.
    """
    if len(target_tokens) != len(drafts) + 1:
        raise ValueError(
            f"{len(drafts)} drafts need {len(drafts) + 1} target tokens, not {len(target_tokens)}"
        )
    accepted = 0
    for draft, token in zip(drafts, target_tokens, strict=False):
        if draft != token:
            break
        accepted += 1
    return settle(target_tokens[: accepted + 1], stop_tokens=stop_tokens, remaining=remaining)


def settle(tokens: Sequence[int], *, stop_tokens: Collection[int], remaining: int) -> Verdict:
    """Cut accepted drafts and the target's own token after them where the generation ends.

    Args:
        tokens: The accepted drafts, then the target's own token.
        stop_tokens: The first of these ends the generation and is its last token.
        remaining: How many more tokens may be committed, at least 1.

    Raises:
        ValueError: There is no token, or nothing may be committed.
    """
    if not tokens:
        raise ValueError("the target's own token is missing")
    if remaining < 1:
        raise ValueError(f"remaining is {remaining}: the session should have ended")
    if len(tokens) < remaining and frozenset(stop_tokens).isdisjoint(tokens):  # nearly always
        return Verdict(len(tokens) - 1, tuple(tokens), None)
    committed: list[int] = []
    finish: FinishReason | None = None
    for token in tokens:
        committed.append(token)
        if token in stop_tokens:
            finish = FinishReason.STOP
            break
        if len(committed) == remaining:
            finish = FinishReason.LENGTH
            break
    return Verdict(
        accepted=min(len(tokens) - 1, len(committed)), committed=tuple(committed), finish=finish
    )
