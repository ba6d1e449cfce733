"""The table of a run, and what has to be said about it.  Pure."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dspark.bench.arms import OFF
from dspark.bench.summary import Figure, Summary

_VERIFIED = 0.99
_PLAIN_STEPS = 3.0
"""A fixed arm with less of its drafts verified, or more steps of a request without any, was not
fixed.  The first step has no draft yet, the last token needs none, and now and then one is late.
"""


def make_table(
    summaries: Sequence[Summary], bounds: Mapping[tuple[str, str], float]
) -> RenderableType:
    """Return the table and its notes.

    Args:
        summaries: Its rows.
        bounds: Tokens/s that an arm could reach, by (load, arm), where it is known.
    """
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("load")
    table.add_column("arm", no_wrap=True)
    for column in (
        "tokens/s",
        "tok/s/user",
        "TTFT ms",
        "token ms p50/p99",
        "tau",
        "verified/req",
        "wasted",
        "plain",
        "x off",
        "user x off",
        "of bound",
        "differ",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for before, summary in zip([None, *summaries], summaries, strict=False):
        if before is not None and before.load != summary.load:
            table.add_section()
            table.add_row()
        table.add_row(*_row(summary, bounds.get((summary.load.label, summary.arm.name))))
    return Group(table, "", *(Text(note) for note in notes(summaries)))


def notes(summaries: Sequence[Summary]) -> list[str]:
    """Return what the table alone would hide."""
    return [
        *_outputs(summaries),
        *(note for summary in summaries if (note := _trimmed(summary)) is not None),
        *(
            f"{summary.arm.name} at {summary.load.label}: "
            f"{_ratio(summary.ratio_to_best_fixed)} of {summary.best_fixed}, the best fixed length"
            for summary in summaries
            if summary.ratio_to_best_fixed is not None
        ),
    ]


def _outputs(summaries: Sequence[Summary]) -> list[str]:
    compared = sum(summary.compared for summary in summaries)
    differing = sum(summary.differing for summary in summaries)
    if not any(summary.arm.name == OFF for summary in summaries):
        return ["Nothing was compared: ratios and the check of the outputs need the arm off."]
    if differing:
        return [f"The output is NOT identical: {differing} of {compared} differ from off."]
    return [f"The output is identical to off in all {compared} comparisons."]


def _trimmed(summary: Summary) -> str | None:
    """Say where the budget made a fixed arm something else."""
    if not summary.arm.fixed:
        return None
    verified = summary.figure(lambda m: m.verified_share)
    plain = summary.figure(lambda m: (m.plain_share or 0.0) * m.steps_per_request)
    verified_share = 0.0 if verified is None else verified.median
    plain_steps = 0.0 if plain is None else plain.median
    if verified_share >= _VERIFIED and plain_steps <= _PLAIN_STEPS:
        return None
    return (
        f"{summary.arm.name} at {summary.load.label} was not fixed: {verified_share:.0%} of its "
        f"drafts were verified, {plain_steps:.1f} steps of a request had none"
    )


def _row(summary: Summary, bound: float | None) -> tuple[str, ...]:
    return (
        summary.load.label,
        summary.arm.name,
        _spread(summary.figure(lambda m: m.tokens_per_s), 0),
        _spread(summary.figure(lambda m: m.user_tokens_per_s), 1),
        _plain(summary.figure(lambda m: m.ttft_p50_ms), 0),
        f"{_plain(summary.figure(lambda m: m.token_p50_ms), 1)}/"
        f"{_plain(summary.figure(lambda m: m.token_p99_ms), 1)}",
        _plain(summary.figure(lambda m: m.accepted_length), 2),
        _plain(summary.figure(lambda m: m.verified_per_request), 1),
        _percent(summary.figure(lambda m: m.wasted_share)),
        _percent(summary.figure(lambda m: m.plain_share)),
        _ratio(summary.ratio_to_off),
        _ratio(summary.user_ratio_to_off),
        _percent(None if bound is None else summary.figure(lambda m: _over(m.tokens_per_s, bound))),
        "-" if summary.arm.name == OFF or not summary.compared else str(summary.differing),
    )


def _over(value: float | None, bound: float) -> float | None:
    return None if value is None else value / bound


def _plain(figure: Figure | None, digits: int) -> str:
    return "-" if figure is None else f"{figure.median:.{digits}f}"


def _spread(figure: Figure | None, digits: int) -> str:
    return "-" if figure is None else f"{figure.median:.{digits}f} ±{figure.spread:.0%}"


def _percent(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.median:.0%}"


def _ratio(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.median:.2f} ({figure.low:.2f}-{figure.high:.2f})"
