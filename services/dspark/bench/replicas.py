"""The second table of a run: what the verifiers reported of it.  Pure."""

from collections.abc import Mapping, Sequence
from typing import cast

from rich.console import RenderableType
from rich.table import Table

from dspark.bench.forecast import Sample, summarise_samples
from dspark.bench.summary import Summary

_COLUMNS = {
    "step ms": ("step_ms", "{:.1f}"),
    "scheduler ms": ("schedule_ms", "{:.2f}"),
    "busy": ("verifier_busy_share", "{:.0%}"),
    "bubble": ("verifier_bubble_share", "{:.0%}"),
    "draft hidden": ("hidden_draft_share", "{:.0%}"),
    "bound tok/s": ("bound_tokens_per_s", "{:.0f}"),
    "forecast step": ("forecast_over_measured_step", "{:.2f}"),
    "round": ("forecast_over_measured_round", "{:.2f}"),
}


def make_replica_table(
    samples: Sequence[Sample], summaries: Sequence[Summary]
) -> RenderableType | None:
    """Return medians over the reports by load and arm; None without any.

    Args:
        samples: The reports.
        summaries: Their order, and what only clients were told.
    """
    groups = {(entry["load"], entry["arm"]): entry for entry in summarise_samples(samples)}
    if not groups:
        return None
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("load")
    table.add_column("arm", no_wrap=True)
    for column in ("reports", *_COLUMNS, "B/accepted"):
        table.add_column(column, justify="right", no_wrap=True)
    for summary in summaries:
        entry = groups.get((summary.load.label, summary.arm.name))
        if entry is not None:
            table.add_row(*_row(entry, summary))
    return table


def _row(entry: Mapping[str, object], summary: Summary) -> tuple[str, ...]:
    moved = summary.figure(lambda m: m.bytes_per_accepted)
    return (
        summary.load.label,
        summary.arm.name,
        str(entry["reports"]),
        *(
            "-" if entry[name] is None else form.format(cast(float, entry[name]))
            for name, form in _COLUMNS.values()
        ),
        "-" if moved is None else f"{moved.median:.0f}",
    )
