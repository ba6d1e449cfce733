from typing import Any

from dspark.core.fleet import LoadReport, ReplicaState
from dspark.core.ids import Incarnation, ReplicaName
from dspark.engines.vllm.port import Capacity, Gauges
from dspark.engines.vllm.report import report_load
from dspark.verifier.window import LoadWindow, Sums
from tests.engines.vllm.fake_engine import round_note, step


def _report(window: LoadWindow, **changes: Any) -> LoadReport:
    values: dict[str, Any] = {
        "replica": ReplicaName("v"),
        "incarnation": Incarnation(1),
        "state": ReplicaState.READY,
        "now_s": 2.0,
        "num_open": 5,
        "gauges": Gauges(running=3, waiting=2, kv_usage=0.25),
        "capacity": Capacity(num_blocks=80, block_tokens=16, max_context_tokens=400),
        "last": None,
        "fates": {},
        "moved": {},
        "cells": (),
    }
    observed = [("greedy", ((0.5, 0.25), 2, 1))]
    return report_load(window, observed, **(values | changes))


def test_a_report_says_what_was_done_and_what_is_left() -> None:
    window = LoadWindow(0.0)
    sums = Sums(steps=2, step_s=0.5, committed_tokens=6, session_steps=4, context_tokens=100)
    window.step(sums=sums, survivals=[(0.5,)])
    report = _report(
        window, last=step(round_note(1, 4, 1), epoch=3, term=2, drafters=1, round_trip_s=0.01)
    )
    assert (report.active_sessions, report.waiting_sessions) == (3, 2)
    assert (report.free_pages, report.total_pages) == (60, 80)
    assert (report.steps, report.committed_tokens, report.busy_share) == (2, 6, 0.25)
    assert report.mean_context_tokens == 25
    assert (report.budget_epoch, report.budget_term) == (3, 2)
    assert (report.connected_drafters, report.draft_round_s) == (1, 0.01)
    assert report.judged_by_position == (1, 1)
    assert report.accepted_by_position == (1, 0)
    assert _report(window).steps == 0  # a new window began


def test_an_idle_engine_says_nothing_and_holds_nothing() -> None:
    report = _report(LoadWindow(0.0), num_open=0)
    assert (report.active_sessions, report.waiting_sessions) == (0, 0)
    assert report.free_pages == report.total_pages
    assert report.budget_epoch is None
