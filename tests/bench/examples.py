"""Cells and records small enough to compute by hand."""

from typing import Any

from dspark.bench.arms import Arm, parse_arm
from dspark.bench.loads import Load
from dspark.bench.prompts import Prompt
from dspark.bench.record import Arrival, CellRecord, Counts, Served
from dspark.bench.schedule import Cell, Plan, Request

PROMPTS = tuple(Prompt(domain="", text=f"p{number}") for number in range(5))


def a_plan(arms: str = "off,adaptive", **changes: Any) -> Plan:
    whole: dict[str, Any] = {
        "arms": tuple(parse_arm(word) for word in arms.split(",")),
        "loads": (Load(concurrency=2),),
        "prompts": PROMPTS,
        "repeats": 2,
        "requests": 3,
        "tokens": 4,
        "temperature": 0.0,
        "seed": 10,
    }
    return Plan(**{**whole, **changes})


def a_request(index: int = 0) -> Request:
    return Request(index=index, prompt=PROMPTS[0], seed=index, tokens=4, temperature=0.0)


def a_cell(arm: str | Arm = "off", *, repeat: int = 0, load: int = 1, requests: int = 1) -> Cell:
    return Cell(
        repeat=repeat,
        load=Load(concurrency=load),
        arm=parse_arm(arm) if isinstance(arm, str) else arm,
        requests=tuple(a_request(index) for index in range(requests)),
    )


def served(
    *arrivals: tuple[float, int], index: int = 0, counts: Counts | None = None, text: str = "x"
) -> Served:
    """One request asked at 0 s: (seconds, tokens) as they came."""
    return Served(
        index=index,
        asked_s=0.0,
        arrivals=tuple(Arrival(at_s=at_s, tokens=tokens) for at_s, tokens in arrivals),
        token_ids=tuple(range(sum(tokens for _, tokens in arrivals))),
        text=text,
        counts=counts or Counts(),
    )


def a_record(cell: Cell, *requests: Served, whole_until_s: float) -> CellRecord:
    return CellRecord(cell=cell, served=requests, began_s=0.0, whole_until_s=whole_until_s)


def at_speed(
    arm: str, tokens_per_s: float, *, repeat: int = 0, load: int = 1, text: str = "x"
) -> CellRecord:
    """One request of ten tokens, one at a time, at that speed."""
    times = tuple((number / tokens_per_s, 1) for number in range(1, 11))
    cell = a_cell(arm, repeat=repeat, load=load)
    return a_record(cell, served(*times, text=text), whole_until_s=10 / tokens_per_s)
