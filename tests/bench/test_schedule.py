from itertools import pairwise
from random import Random
from statistics import fmean

import pytest

from dspark.bench.loads import Load
from dspark.bench.schedule import arrivals, make_schedule, make_warm_up
from tests.bench.examples import a_plan


def test_arms_take_turns_within_a_load_and_rotate_between_turns() -> None:
    plan = a_plan("off,fixed:2,adaptive", loads=(Load(concurrency=1), Load(concurrency=4)))
    order = [(cell.repeat, cell.load.label, cell.arm.name) for cell in make_schedule(plan)]
    assert order == [
        (0, "1", "off"), (0, "1", "fixed:2"), (0, "1", "adaptive"),
        (0, "4", "fixed:2"), (0, "4", "adaptive"), (0, "4", "off"),
        (1, "1", "fixed:2"), (1, "1", "adaptive"), (1, "1", "off"),
        (1, "4", "adaptive"), (1, "4", "off"), (1, "4", "fixed:2"),
    ]  # fmt: skip


def test_all_arms_of_a_turn_ask_for_the_same() -> None:
    off, adaptive, *_ = make_schedule(a_plan())
    assert off.requests == adaptive.requests


def test_repeats_go_on_through_the_prompts_with_seeds_of_their_own() -> None:
    first, _, second, _ = make_schedule(a_plan())
    asked = [(request.prompt.text, request.seed) for request in first.requests + second.requests]
    assert asked == [("p0", 10), ("p1", 11), ("p2", 12), ("p3", 13), ("p4", 14), ("p0", 15)]


def test_without_a_number_every_user_asks_several_times() -> None:
    plan = a_plan(requests=None, loads=(Load(concurrency=1), Load(concurrency=8)))
    assert sorted({len(cell.requests) for cell in make_schedule(plan)}) == [6, 24]


def test_the_warm_up_is_every_arm_at_the_heaviest_load_and_short() -> None:
    plan = a_plan(loads=(Load(concurrency=4), Load(concurrency=2)))
    cells = make_warm_up(plan, tokens=2)
    assert [(cell.arm.name, cell.load.concurrency) for cell in cells] == [
        ("off", 4), ("adaptive", 4),
    ]  # fmt: skip
    assert {request.tokens for cell in cells for request in cell.requests} == {2}


def test_an_open_loop_brings_all_arms_the_same_arrivals() -> None:
    load = Load(concurrency=64, rate_per_s=5.0)
    off, adaptive, later, _ = make_schedule(a_plan(loads=(load,), requests=20))
    assert load.label == "5/s"
    assert off.requests == adaptive.requests
    times = [request.arrival_s for request in off.requests]
    assert times == sorted(times)
    assert times != [request.arrival_s for request in later.requests]


def test_arrivals_have_the_rate_asked_for() -> None:
    times = (0.0, *arrivals(4.0, 4000, Random(1)))
    gaps = [b - a for a, b in pairwise(times)]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
