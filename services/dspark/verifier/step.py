"""One verify step: from drafts to a ragged batch, and from the target's tokens to commits.

``plan_step`` decides, ``VerifyStep`` carries the decision; running the target is the engine's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dspark.core.admission import Admission, SessionDraft, admit, admit_top
from dspark.core.budget import ALL, OFF
from dspark.core.curve import Curve
from dspark.core.draft import DraftBlock, survivals
from dspark.core.ids import SessionId
from dspark.verifier.session import VerifierSession, mean_context_tokens
from dspark.verifier.target_port import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyStep:
    """What one target forward carries.

    Attributes:
        decoding: Sessions verified, in the order of ``segments``.
        drafts: The drafts of each that are verified (a prefix of what was proposed).
        proposed: How many were proposed.
        survivals: Survivals as proposed; empty without a draft.
        prefilling: Sessions whose prompt runs here, with the tokens of this chunk; their
            segments follow the others.
        segments: The batch.
        batch_tokens: Tokens in it.
        reason: Why these lengths, for people.
    """

    decoding: tuple[VerifierSession, ...]
    drafts: tuple[tuple[int, ...], ...]
    proposed: tuple[int, ...]
    survivals: tuple[tuple[float, ...], ...]
    prefilling: tuple[tuple[VerifierSession, int], ...]
    segments: tuple[Segment, ...]
    batch_tokens: int
    reason: str


def plan_step(
    decoding: Sequence[VerifierSession],
    prefilling: Sequence[VerifierSession],
    blocks: Mapping[SessionId, DraftBlock],
    *,
    entry: int | None,
    curve: Curve | None,
    max_batch_tokens: int,
    prefill_chunk_tokens: int,
    wait_s: float = 0.0,
    weights: Mapping[int, float] = MappingProxyType({}),
) -> VerifyStep:
    """Choose every session's verified prefix and lay out the batch.

    Args:
        decoding: Sessions to verify.
        prefilling: Sessions whose prompt runs here.
        blocks: Drafts that passed the fences.
        entry: The budget's entry, fixed before these drafts were made; None without a budget.
        curve: The replica's own curve.
        max_batch_tokens: Bound on the forward; every decoding session has one token of it.
        prefill_chunk_tokens: Most prompt tokens of one session in a step.
        wait_s: Seconds of a round beyond its step, known before these drafts were made.
        weights: Of drafts, by their session's priority; 1 where it is not listed.
    """
    candidates = []
    proposed: list[tuple[float, ...]] = []  # survivals, by session
    for session in decoding:
        block = blocks.get(session.id)
        if block is None:
            proposed.append(())
            continue
        survived = survivals(block.confidences)
        proposed.append(survived)
        weight = weights.get(session.generation.priority, 1.0) if weights else 1.0
        candidates.append(SessionDraft(session=session.id, survivals=survived, weight=weight))
    # A prompt that runs here goes on in every step, however much is drafted.
    first_chunk = min(prefill_chunk_tokens, _missing(prefilling[0])) if prefilling else 0
    admission = _admit(
        candidates,
        # Drafts under "off" are probes: they measure acceptance, so all of them are verified.
        entry=ALL if entry == OFF else entry,
        curve=curve,
        decoding=decoding,
        prompt_tokens=first_chunk,
        wait_s=wait_s,
        room=max(0, max_batch_tokens - len(decoding) - first_chunk),
    )
    drafts = []
    segments = []
    batch_tokens = 0
    for session in decoding:
        length = admission.lengths.get(session.id, 0)
        tokens, sampling = session.tokens, session.generation.sampling
        laws = None
        chosen: tuple[int, ...] = ()
        if length:
            block = blocks[session.id]
            if session.processor is not None:
                # After admission: what is admitted must not depend on the drafts themselves.
                length = session.processor.useful_drafts(
                    block.tokens[:length], judged_by_rejection=sampling.rejects
                )
            chosen = block.tokens[:length]
            if length and block.laws is not None and sampling.rejects:
                laws = block.laws.first(length)
        drafts.append(chosen)
        batch_tokens += 1 + length
        segments.append(
            Segment(
                tokens=(tokens[-1], *chosen),
                start=len(tokens) - 1,
                pages=session.pages,
                choose=1 + length,
                sampling=sampling,
                laws=laws,
                processor=session.processor,
            )
        )
    room = max_batch_tokens - batch_tokens
    chunks = []
    for session in prefilling:
        count = min(prefill_chunk_tokens, _missing(session), room)
        if count <= 0:
            break
        room -= count
        batch_tokens += count
        stop = session.computed + count
        chunks.append((session, count))
        segments.append(
            Segment(
                tokens=tuple(session.tokens[session.computed : stop]),
                start=session.computed,
                pages=session.pages,
                choose=1 if stop == len(session.tokens) else 0,
                sampling=session.generation.sampling,
                processor=session.processor,
            )
        )
    return VerifyStep(
        decoding=tuple(decoding),
        drafts=tuple(drafts),
        proposed=tuple(map(len, proposed)),
        survivals=tuple(proposed),
        prefilling=tuple(chunks),
        segments=tuple(segments),
        batch_tokens=batch_tokens,
        reason=admission.reason,
    )


def _missing(session: VerifierSession) -> int:
    """Prompt tokens that are not in the pages yet."""
    return len(session.tokens) - session.computed


def _admit(
    candidates: Sequence[SessionDraft],
    *,
    entry: int | None,
    curve: Curve | None,
    decoding: Sequence[VerifierSession],
    prompt_tokens: int,
    wait_s: float,
    room: int,
) -> Admission:
    if not candidates:
        return Admission(lengths={}, reason="nothing was drafted")
    admission = admit(
        candidates,
        entry=entry,
        curve=curve,
        context_tokens=mean_context_tokens(decoding),
        plain_sessions=len(decoding) - len(candidates),
        prompt_tokens=prompt_tokens,
        wait_s=wait_s,
    )
    if sum(admission.lengths.values()) <= room:
        return admission
    # The batch bound is fixed, so cutting to it is a budget like any other.
    capped = [
        SessionDraft(
            session=draft.session,
            survivals=draft.survivals[: admission.lengths[draft.session]],
            weight=draft.weight,
        )
        for draft in candidates
    ]
    return Admission(
        lengths=admit_top(capped, room), reason=f"{admission.reason}; cut to {room} by the batch"
    )
