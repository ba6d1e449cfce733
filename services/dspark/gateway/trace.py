"""A step as clients read it who asked to see drafting at work."""

from collections.abc import Callable, Sequence

from dspark.core.draft import JudgedDraft
from dspark.gateway.logprobs import Json


def written_step(
    committed: Sequence[int], draft: JudgedDraft | None, spell: Callable[[int], bytes]
) -> Json:
    """Return ``choices[i].speculation`` of one chunk.

    Args:
        committed: Tokens of the step that count: accepted drafts, then the target's own one.
        draft: What was drafted, or None for a step without a draft.
        spell: The bytes of a token.
    """

    def text(token: int) -> str:
        return spell(token).decode(errors="replace")

    proposed = () if draft is None else zip(draft.tokens, draft.confidences, strict=True)
    return {
        "committed": [text(token) for token in committed],
        "draft": [
            {"token": text(token), "confidence": round(confidence, 4)}
            for token, confidence in proposed
        ],
        "verified": 0 if draft is None else draft.verified,
        "accepted": 0 if draft is None else draft.accepted,
    }
