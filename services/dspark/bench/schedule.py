"""The schedule: which arm runs when, with which requests.

Arms are interleaved: within a repeat every load is run by all arms, one after the other, on the
same prompts with the same seeds, and each next turn begins with another arm.  So what the machine
does meanwhile hits all arms alike, and a ratio within one turn means something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from dspark.bench.arms import Arm
from dspark.bench.loads import Load
from dspark.bench.prompts import Prompt

_REQUESTS_PER_USER = 3
_MIN_REQUESTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation to ask for.

    Attributes:
        index: Within its cell; equal in all arms of a turn.
        prompt: What to continue.
        seed: Of the sampling.
        tokens: How many to generate, exactly.
        temperature: 0 is greedy.
        arrival_s: Open loop: seconds after the cell began.
    """

    index: int
    prompt: Prompt
    seed: int
    tokens: int
    temperature: float
    arrival_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm under one load, once; cells of one (repeat, load) ask for the same."""

    repeat: int
    load: Load
    arm: Arm
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run asks for.

    Attributes:
        arms: In the order of the table.
        loads: In the order of the table.
        prompts: Taken in turn, from the start again when they are used up.
        repeats: Of everything.
        requests: In a cell; None for as many as the load needs.
        tokens: Of each request.
        temperature: Of each request.
        seed: The first request's; the others count on from it.
    """

    arms: tuple[Arm, ...]
    loads: tuple[Load, ...]
    prompts: tuple[Prompt, ...]
    repeats: int
    requests: int | None
    tokens: int
    temperature: float
    seed: int


def make_schedule(plan: Plan) -> tuple[Cell, ...]:
    """Return all cells in the order in which they run."""
    cells = []
    for repeat in range(plan.repeats):
        for number, load in enumerate(plan.loads):
            requests = _requests(plan, load, repeat)
            cells += [
                Cell(repeat=repeat, load=load, arm=arm, requests=requests)
                for arm in _rotated(plan.arms, repeat + number)
            ]
    return tuple(cells)


def make_warm_up(plan: Plan, *, tokens: int) -> tuple[Cell, ...]:
    """Return a short cell of every arm at the heaviest load: the first steps are slower."""
    load = max(plan.loads, key=lambda load: (load.rate_per_s or 0.0, load.concurrency))
    users = load.concurrency if load.rate_per_s is None else min(load.concurrency, _MIN_REQUESTS)
    return tuple(
        Cell(
            repeat=-1,
            load=Load(concurrency=users),
            arm=arm,
            requests=_take(plan, start=0, count=users, tokens=min(tokens, plan.tokens)),
        )
        for arm in plan.arms
    )


def arrivals(rate_per_s: float, count: int, random: Random) -> tuple[float, ...]:
    """Return the seconds at which a Poisson process of this rate brings ``count`` requests."""
    return tuple(accumulate(random.expovariate(rate_per_s) for _ in range(count)))


def _requests(plan: Plan, load: Load, repeat: int) -> tuple[Request, ...]:
    count = plan.requests or max(_MIN_REQUESTS, _REQUESTS_PER_USER * load.concurrency)
    if load.rate_per_s is None:
        return _take(plan, start=repeat * count, count=count, tokens=plan.tokens)
    count = plan.requests or 4 * _MIN_REQUESTS
    times_s = arrivals(load.rate_per_s, count, Random(f"{plan.seed}/{repeat}/{load.rate_per_s}"))
    return _take(plan, start=repeat * count, count=count, tokens=plan.tokens, times_s=times_s)


def _take(
    plan: Plan, *, start: int, count: int, tokens: int, times_s: Sequence[float] = ()
) -> tuple[Request, ...]:
    return tuple(
        Request(
            index=index,
            prompt=plan.prompts[(start + index) % len(plan.prompts)],
            seed=plan.seed + start + index,
            tokens=tokens,
            temperature=plan.temperature,
            arrival_s=times_s[index] if times_s else 0.0,
        )
        for index in range(count)
    )


def _rotated(arms: tuple[Arm, ...], by: int) -> tuple[Arm, ...]:
    by %= len(arms)
    return arms[by:] + arms[:by]
