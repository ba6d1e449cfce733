import pytest

from dspark.core.fleet import LoadReport, ReplicaState
from dspark.core.ids import Epoch, Incarnation, ReplicaName
from dspark.core.refinement import StepCell
from dspark.telemetry.metrics import REGISTRY
from dspark.verifier.report_metrics import publish_report


def _value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_report_is_counted_and_shown() -> None:
    report = LoadReport(
        replica=ReplicaName("v"),
        incarnation=Incarnation(1),
        state=ReplicaState.READY,
        window_s=1.0,
        free_pages=60,
        total_pages=80,
        budget_epoch=Epoch(3),
        draft_outcomes={"hit": 4},
        wire_bytes={"rows": 100},
        step_cells=(
            StepCell(sessions=1, batch_tokens=4, steps=3.0, ratio=1.2),
            StepCell(sessions=2, batch_tokens=8, steps=1.0, ratio=0.6),
        ),
    )
    for _ in range(2):
        publish_report(report, pool="told", model_name="told")
    assert _value("dspark_draft_requests_total", pool="told", outcome="hit") == 8
    assert _value("dspark_draft_context_bytes_total", pool="told", kind="rows") == 200
    assert _value("dspark_verification_budget_epoch", pool="told") == 3
    assert _value("vllm:kv_cache_usage_perc", model_name="told") == 0.25
    error = _value("dspark_sps_profile_error_ratio", pool="told")
    assert error == pytest.approx(0.25)  # the mean of 0.2 and 0.4, by steps
