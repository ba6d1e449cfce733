from types import SimpleNamespace
from typing import Any

from dspark.engines.vllm.port import Gauges, OwnStep
from dspark.engines.vllm.stats import SchedulerGauges
from dspark.telemetry import metrics


def _scheduler(**changes: Any) -> Any:
    values = {
        "num_running_reqs": 3,
        "num_waiting_reqs": 2,
        "num_skipped_waiting_reqs": 1,
        "kv_cache_usage": 0.25,
        "prefix_cache_stats": SimpleNamespace(queries=10, hits=4),
        "spec_decoding_stats": None,
    }
    return SimpleNamespace(**(values | changes))


def _iteration() -> Any:
    return SimpleNamespace(
        num_prompt_tokens=7,
        num_generation_tokens=5,
        time_to_first_tokens_iter=[0.1],
        inter_token_latencies_iter=[0.01, 0.02],
        finished_requests=[SimpleNamespace(queued_time=0.5)],
    )


def _value(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, {"model_name": "stats-test"}) or 0.0


def test_vllms_statistics_are_gauges_at_once_and_metrics_once_it_serves() -> None:
    gauges = Gauges()
    taken = SchedulerGauges(gauges, model_name="stats-test")
    taken.take(_scheduler(), _iteration())
    assert (gauges.running, gauges.waiting, gauges.kv_usage) == (3, 3, 0.25)
    assert _value("vllm:prompt_tokens_total") == 0  # these measured steps
    gauges.serving = True
    taken.take(_scheduler(), None)
    taken.take(None, _iteration())
    assert _value("vllm:num_requests_running") == 3
    assert _value("vllm:num_requests_waiting") == 3
    assert _value("vllm:prefix_cache_queries_total") == 10
    assert _value("vllm:prefix_cache_hits_total") == 4
    assert _value("vllm:prompt_tokens_total") == 7
    assert _value("vllm:inter_token_latency_seconds_count") == 2
    assert _value("vllm:time_to_first_token_seconds_count") == 1
    assert _value("vllm:request_queue_time_seconds_count") == 1


def test_steps_that_nobody_else_tells_of_are_told_from_them() -> None:
    steps: list[OwnStep] = []
    now_s = iter((0.0, 1.0, 3.0, 4.0))
    gauges = Gauges()
    taken = SchedulerGauges(gauges, model_name="own", clock=lambda: next(now_s))
    gauges.own_steps = steps.append
    drafts = SimpleNamespace(num_drafts=2, num_draft_tokens=6, num_accepted_tokens_per_pos=[2, 1])
    taken.take(_scheduler(), _iteration())
    taken.take(_scheduler(spec_decoding_stats=drafts, num_running_reqs=0), _iteration())
    taken.take(_scheduler(), _iteration())
    assert [step.step_s for step in steps] == [0.0, 2.0, 0.0]
    assert steps[0].drafted_steps == 0
    assert (steps[1].drafted_steps, steps[1].verified_tokens) == (2, 6)
    assert steps[1].accepted_at == (2, 1)
    assert (steps[1].session_steps, steps[1].committed_tokens) == (2, 5)
