"""Scaling: from what the load needs to how many replicas are wanted, without flapping.

More are wanted once the load asked for more during ``up_after_s``, and then as many as it asked
for all the while; fewer once it did with fewer during ``down_after_s``, and then as many as it
needed at most.  Nothing here looks at how many replicas are ready.
"""

from dataclasses import dataclass

from dspark.core.need import Need, Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A pool's wanted replicas, and what may soon change them.

    Attributes:
        wanted: Replicas.
        why: In one sentence.
        rate: Of ``Need``, kept for the next time.
        turn: 1 where the load asks for more, -1 where it does with fewer, 0 otherwise.
        since_s: Since when it does.
        bound: The least that it asked for, or the most that it needed, since then.
    """

    wanted: int
    why: str = ""
    rate: float = 0.0
    turn: int = 0
    since_s: float = 0.0
    bound: int = 0


def scale(before: Scaled, need: Need | None, scaling: Scaling, *, now_s: float) -> Scaled:
    """Return the wanted replicas after ``before``, now that the load needs ``need``.

    Args:
        before: As decided last.
        need: Of the load; None: nothing is known, so nothing changes.
        scaling: How the pool scales.
        now_s: A monotonic clock.
    """
    wanted = _within(before.wanted, scaling)
    if need is None:
        return Scaled(wanted=wanted, why="not known yet: as before", rate=before.rate)
    fewest, safe = _within(need.fewest, scaling), _within(need.safe, scaling)
    turn = 1 if fewest > wanted else -1 if safe < wanted else 0
    if turn == 0:
        return Scaled(wanted=wanted, why=need.why, rate=need.rate)
    asked = fewest if turn == 1 else safe
    since_s, bound = now_s, asked
    if before.turn == turn:
        since_s = before.since_s
        bound = min(before.bound, asked) if turn == 1 else max(before.bound, asked)
    lasted_s = now_s - since_s
    if lasted_s >= (scaling.up_after_s if turn == 1 else scaling.down_after_s):
        if bound == 0 and lasted_s < scaling.idle_s:
            # Only the last one waits longer: it takes long to come back.
            return Scaled(
                wanted=min(wanted, 1), why=need.why, rate=need.rate, turn=turn, since_s=since_s,
            )  # fmt: skip
        return Scaled(wanted=bound, why=need.why, rate=need.rate)
    return Scaled(
        wanted=wanted, why=need.why, rate=need.rate, turn=turn, since_s=since_s, bound=bound
    )


def _within(count: int, scaling: Scaling) -> int:
    return min(max(count, scaling.min_replicas), scaling.max_replicas)
