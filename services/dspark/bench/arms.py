"""Arms: the ways to speculate that one run compares."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

Topology = Literal["disaggregated", "colocated"]

Place = tuple[Topology, float]
"""Where drafters are: the topology, and milliseconds of added delay one way."""

OFF = "off"
ADAPTIVE = "adaptive"

_MAX_DRAFT_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to speculate; it is asked of the server with every request.

    Attributes:
        name: "off", "fixed:K" or "adaptive"; with "@colocated" where that is the topology, and
            "@5ms" where the drafter is that far away.
        enabled: Whether drafts are made at all.
        max_draft_tokens: Largest draft a step; 0 for the drafter's block.
        topology: Whether drafter and target have a device each or take turns on one.
        latency_ms: One-way delay between them that is added.
    """

    name: str
    enabled: bool
    max_draft_tokens: int = 0
    topology: Topology = "disaggregated"
    latency_ms: float = 0.0

    @property
    def place(self) -> "Place":
        """Which engines it runs on."""
        return self.topology, self.latency_ms

    @property
    def fixed(self) -> bool:
        """Whether it asks for one draft length."""
        return self.max_draft_tokens > 0

    @property
    def kind(self) -> str:
        """The name without its place."""
        return self.name.partition("@")[0]

    @property
    def speculation(self) -> dict[str, object]:
        """The ``speculation`` object of a request body."""
        if not self.fixed:
            return {"enabled": self.enabled}
        return {"enabled": True, "max_draft_tokens": self.max_draft_tokens}


def parse_arm(text: str) -> Arm:
    """Read "off", "fixed:K" or "adaptive".

    Raises:
        ValueError: Anything else.
    """
    if text in (OFF, ADAPTIVE):
        return Arm(name=text, enabled=text == ADAPTIVE)
    kind, _, count = text.partition(":")
    if kind == "fixed" and count.isdecimal() and 1 <= int(count) <= _MAX_DRAFT_TOKENS:
        return Arm(name=f"fixed:{int(count)}", enabled=True, max_draft_tokens=int(count))
    raise ValueError(
        f"arm {text!r} is none of: off, adaptive, fixed:K with K in 1..{_MAX_DRAFT_TOKENS}"
    )


def parse_arms(text: str) -> tuple[Arm, ...]:
    """Read a comma-separated list of arms.

    Raises:
        ValueError: One is unknown, or appears twice.
    """
    arms = tuple(parse_arm(word.strip()) for word in text.split(","))
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"arm {twice!r} appears twice in {text!r}")
    return arms


def parse_topologies(text: str) -> tuple[Topology, ...]:
    """Read a comma-separated list of topologies.

    Raises:
        ValueError: One is unknown, or appears twice.
    """
    known: tuple[Topology, ...] = get_args(Topology)
    words = [word.strip() for word in text.split(",")]
    chosen = tuple(topology for word in words for topology in known if topology == word)
    if len(chosen) != len(words) or len(set(chosen)) != len(chosen):
        raise ValueError(f"--topology {text!r} is no list of different ones of {', '.join(known)}")
    return chosen


def parse_latencies(text: str) -> tuple[float, ...]:
    """Read a comma-separated list of milliseconds.

    Raises:
        ValueError: One is no number of at least 0, or appears twice.
    """
    try:
        latencies = tuple(float(word) for word in text.split(","))
    except ValueError:
        latencies = ()
    usable = all(math.isfinite(latency) and latency >= 0 for latency in latencies)
    if not latencies or not usable or len(set(latencies)) < len(latencies):
        raise ValueError(f"--latency-ms {text!r} is no list of different numbers from 0 up")
    return latencies


def across(
    arms: tuple[Arm, ...],
    topologies: tuple[Topology, ...],
    latencies_ms: tuple[float, ...] = (0.0,),
) -> tuple[Arm, ...]:
    """Return every arm in every place; "off" comes once: colocated, if that is a topology.

    It has no drafter, so there it has the cores of both.  Colocated engines have no way between
    them that could be longer.
    """
    placed = []
    alone: Place = ("colocated" if "colocated" in topologies else topologies[0], latencies_ms[0])
    for topology in topologies:
        for latency_ms in latencies_ms:
            if topology == "colocated" and latency_ms != latencies_ms[0]:
                continue
            for arm in arms:
                if not arm.enabled and (topology, latency_ms) != alone:
                    continue
                far_ms = 0.0 if topology == "colocated" else latency_ms
                name = f"{arm.name}@{topology}" if topology == "colocated" else arm.name
                if far_ms:
                    name = f"{arm.name}@{far_ms:g}ms"
                placed.append(
                    replace(
                        arm,
                        name=name if arm.enabled else arm.name,
                        topology=topology,
                        latency_ms=far_ms,
                    )
                )
    return tuple(placed)
