"""Sizing: how many verifiers a spec asks for, and what its controller has to be asked.

``spec.replicas`` is what ``kubectl scale`` and autoscalers set.  The controller keeps each group's
share as a wish of the operator's; a wish of somebody else gives way to it, and without
``spec.replicas`` theirs are left alone.
"""

from dataclasses import dataclass

from dspark_operator.spec.front import OPERATORS_TOKEN

REASON = "spec.replicas of the DSparkService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """What a controller was asked for in one unit.

    Attributes:
        replicas: How many; None: nobody asked.
        author: Who did: the name of a token.
    """

    replicas: int | None = None
    author: str = ""


def next_wish(share: int | None, held: Wished) -> Wished | None:
    """Return what the controller has to be asked for, or None where nothing is left to do.

    Args:
        share: What the spec gives the unit; None: it says nothing.
        held: By the controller.
    """
    ours = Wished(replicas=share, author=OPERATORS_TOKEN)
    if share is None:
        return Wished() if held.author == OPERATORS_TOKEN else None
    return ours if held != ours else None
