"""What a verifier's load report says, as metrics of its own process."""

from dspark.core.fleet import LoadReport
from dspark.telemetry import metrics


def publish_report(report: LoadReport, *, pool: str, model_name: str) -> None:
    """Count and show what one report says; every report once."""
    for cause, count in report.draft_outcomes.items():
        metrics.DRAFT_REQUESTS.labels(pool, cause).inc(count)
    for kind, count in report.wire_bytes.items():
        metrics.DRAFT_CONTEXT_BYTES.labels(pool, kind).inc(count)
    cells = report.step_cells
    if cells:
        error = sum(c.steps * abs(c.ratio - 1) for c in cells) / sum(c.steps for c in cells)
        metrics.SPS_PROFILE_ERROR.labels(pool).set(error)
    metrics.BUDGET_EPOCH.labels(pool).set(report.budget_epoch or 0)
    free_share = report.free_pages / max(1, report.total_pages)
    metrics.VLLM_KV_USAGE.labels(model_name).set(1 - free_share)
