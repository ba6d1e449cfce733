"""Admission: which prefix of each session's drafts is verified in this step.

Two rules, both lossless.

``admit_top`` takes the K best drafted tokens of all sessions, where K comes from a budget that
was fixed before these drafts existed.  ``admit_causal`` (the paper's Algorithm 1) walks the same
order and stops for good at the first token that lowers the expected tokens a second.

Why they are lossless: whether draft k of session r is verified may depend on x_{r,<k}, on other
sessions and on committed rounds, never on x_{r,k} or what follows it.  Candidates are ordered by
(-survival, position, session).  Survivals never grow along a block and the position breaks ties,
so draft k of a session comes after its drafts 1..k-1 and before its drafts k+1..; hence sorting
equals walking a frontier that holds, for each session, its next draft only.  The survival of that
next draft is a function of x_{r,<k}, all of them already admitted, and the decision is taken
before x_{r,k} is looked at.  Three things would break the argument, and are kept out:

* a *global* search for the best size over these very drafts: the paper's Appendix A;
* ties broken by anything that depends on a token's value (an unstable top-k);
* a drop of the whole block because its tail looks bad.

``tests/lossless/test_appendix_a.py`` enumerates each of them and shows the bias.

Who needs this: sampling by rejection.  There a draft that is not verified is thrown away and its
position decided by other randomness, so a rule that looks at x_{r,k} before it decides whether to
verify it throws away what it dislikes, and the law bends.  Greedy and coupled sampling commit the
target's own tokens whatever is verified, and would be lossless under any rule.  All three go
through the same admission: K is fixed from committed rounds before the drafts exist (ALL, K,
OFF), or the walk is Algorithm 1.  Its other half is the drafter's: a position that is drafted
again is drafted with fresh randomness, or what the survivals of dropped drafts have told the
budget since would be about the very tokens to come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, takewhile, zip_longest
from math import isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark.core.budget import ALL, DISABLED, OFF
from dspark.core.curve import Curve, curve_problem, ramp_seconds
from dspark.core.ids import SessionId


class SessionDraft(NamedTuple):
    """What a drafter proposed for one session, as far as admission may see it.

    A tuple, as `Verdict` is: one is made for every session and step.

    Attributes:
        session: The session.
        survivals: a_1 .. a_n: the chance that the first k drafts are all accepted.
        weight: What each counts against other sessions' where a budget is shared out; a property
            of the request, so that it tells nothing of what was drafted.
    """

    session: SessionId
    survivals: tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How many drafts of each session are verified, and why.

    Attributes:
        lengths: For every session that was asked about, 0 .. its drafts.
        reason: One sentence for people.
    """

    lengths: Mapping[SessionId, int]
    reason: str


def admit(
    drafts: Sequence[SessionDraft],
    *,
    entry: int | None,
    curve: Curve | None,
    context_tokens: float,
    plain_sessions: int = 0,
    prompt_tokens: int = 0,
    wait_s: float = 0.0,
) -> Admission:
    """Choose each session's prefix by the budget, or without one by the replica's own curve.

    Args:
        drafts: This step's drafts.
        entry: The budget's entry for this step: K >= 0, ALL, OFF or DISABLED; None: no usable
            budget.
        curve: The replica's own curve, used where there is no budget.
        context_tokens: Mean context length of the step's sessions.
        plain_sessions: Sessions in the step that have no draft.
        prompt_tokens: Of prompts in the step.
        wait_s: Seconds of a round beyond its step, known before these drafts were made.

    Raises:
        ValueError: The entry is none of those.
    """
    drafted = sum(len(draft.survivals) for draft in drafts)
    if entry is None:
        problem = curve_problem(curve)
        if curve is None or problem is not None:
            reason = f"no budget, and the curve is {problem}: verify all {drafted}"
            return Admission(lengths=admit_top(drafts, ALL), reason=reason)
        lengths = admit_causal(
            drafts, curve, context_tokens, plain_sessions,
            prompt_tokens=prompt_tokens, wait_s=wait_s,
        )  # fmt: skip
        kept = sum(lengths.values())
        return Admission(lengths=lengths, reason=f"no budget: causal, {kept} of {drafted}")
    if entry in (OFF, DISABLED):
        lengths = {draft.session: 0 for draft in drafts}
        return Admission(lengths=lengths, reason="the budget says off")
    if entry == ALL:
        return Admission(lengths=admit_top(drafts, ALL), reason=f"the budget says all: {drafted}")
    return Admission(
        lengths=admit_top(drafts, entry), reason=f"the budget says {entry} of {drafted}"
    )


def admit_top(drafts: Sequence[SessionDraft], budget_tokens: int) -> dict[SessionId, int]:
    """Admit the ``budget_tokens`` best drafts, by (-weight * survival, position, session).

    Args:
        drafts: This step's drafts, in any order; sessions differ.
        budget_tokens: K >= 0 fixed before these drafts were made, or ALL.

    Returns:
        Each session's prefix length.  With K a draft of survival 0 is never admitted; ALL admits
        everything.

    Raises:
        ValueError: The budget is negative and not ALL.
    """
    if budget_tokens == ALL:
        return {draft.session: len(draft.survivals) for draft in drafts}
    if budget_tokens < 0:
        raise ValueError(f"a budget of {budget_tokens} tokens is neither K >= 0 nor ALL (-1)")
    # Not by numpy: alone that is no slower, but in a serving process, beside the event loop's
    # thread, a step took some tenths of a millisecond longer with it.
    worths = {draft.session: _worths(draft) for draft in drafts}
    best = sorted(chain.from_iterable(worths.values()), reverse=True)
    if budget_tokens == 0 or not best:
        return dict.fromkeys(worths, 0)
    bar = max(best[min(budget_tokens, len(best)) - 1], 0.0)
    lengths = {}
    at_the_bar = []
    for session, mine in worths.items():
        length = 0
        for worth in mine:  # they fall, so what is above the bar is a prefix
            if worth <= bar:
                break
            length += 1
        lengths[session] = position = length
        while bar and position < len(mine) and mine[position] == bar:
            at_the_bar.append((position, session))
            position += 1
    for _, session in sorted(at_the_bar)[: budget_tokens - sum(lengths.values())]:
        lengths[session] += 1
    return lengths


def _worths(draft: SessionDraft) -> tuple[float, ...]:
    """Return weight * survival of each draft, never rising; up to one that is no number."""
    survivals = draft.survivals
    if isnan(sum(survivals)):
        survivals = tuple(takewhile(lambda survival: not isnan(survival), survivals))
    # A survival above its predecessor is a fault of the drafter; min depends on the past only.
    falling = accumulate(survivals, min)
    if draft.weight == 1.0:
        return tuple(falling)
    return tuple([survival * draft.weight for survival in falling])


def admit_causal(
    drafts: Sequence[SessionDraft],
    curve: Curve,
    context_tokens: float,
    plain_sessions: int = 0,
    *,
    prompt_tokens: int = 0,
    wait_s: float = 0.0,
) -> dict[SessionId, int]:
    """Admit by Algorithm 1 of the paper: best first, until one more would not pay.

    Theta = tau / (T(B) + wait) with tau = R + sum of admitted survivals and B = R + admitted
    drafts + prompt tokens; R counts the plain sessions too, and prompts commit nothing.  The
    paper's Theta = tau * SPS(B) has no wait, because there the drafter runs within the step.  The
    early stop is what makes it causal.  On a staircase it would also end at the first stair, which
    one draft never pays for; so T is the curve's ramp.  Survivals fall and prices on a ramp rise,
    so Theta has one summit and the stop finds it.

    Args:
        drafts: This step's drafts, in any order; sessions differ.
        curve: The replica's own curve.
        context_tokens: Mean context length of the step's sessions.
        plain_sessions: Sessions in the step that have no draft.
        prompt_tokens: Of prompts in the step.
        wait_s: Seconds of a round beyond its step: drafting that nothing hides.
    """
    sessions, columns, survivals = _ranked(drafts)
    if len(survivals) == 0:
        return _lengths(sessions, columns)
    num_sessions = len(sessions) + plain_sessions
    batch_tokens = num_sessions + prompt_tokens + np.arange(len(survivals) + 1)
    # cumsum adds from left to right: a partial sum never sees what comes after it.
    expected_tokens = num_sessions + np.concatenate(([0.0], np.cumsum(survivals)))
    step_s = ramp_seconds(
        curve, sessions=num_sessions, batch_tokens=batch_tokens, context_tokens=context_tokens
    )
    tokens_per_s = expected_tokens / (step_s + wait_s)
    worse = tokens_per_s[1:] <= tokens_per_s[:-1]
    admitted = int(np.argmax(worse)) if worse.any() else len(survivals)
    return _lengths(sessions, columns[:admitted])


def _ranked(
    drafts: Sequence[SessionDraft],
) -> tuple[list[SessionId], NDArray[np.intp], NDArray[np.float64]]:
    """Return the sessions by id, and all candidates best first: (column, survival).

    A column is an index into the sessions.  Candidates with survival 0 (or not a number) and all
    drafts after them in the block are left out.
    """
    ordered = sorted(drafts, key=lambda draft: draft.session)
    sessions = [draft.session for draft in ordered]
    # [position, session]: reading it row by row is reading by (position, session), so that a
    # stable sort by -survival alone gives the whole order.
    rows = zip_longest(*(draft.survivals for draft in ordered), fillvalue=0.0)
    values = np.fromiter(chain.from_iterable(rows), dtype=np.float64)
    # A survival above its predecessor is a fault of the drafter; min depends on the past only.
    table = np.minimum.accumulate(values.reshape(-1, max(len(sessions), 1)), axis=0)
    flat = table.ravel()
    order = np.argsort(-flat, kind="stable")  # what is no number comes last
    order = order[: int(np.count_nonzero(flat > 0.0))]
    return sessions, order % len(sessions), np.minimum(flat[order], 1.0)


def _lengths(sessions: Sequence[SessionId], columns: NDArray[np.intp]) -> dict[SessionId, int]:
    counts = np.bincount(columns, minlength=len(sessions))
    return dict(zip(sessions, counts.tolist(), strict=True))
