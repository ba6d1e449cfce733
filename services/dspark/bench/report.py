"""The run as JSON.  Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields

from dspark.bench.measures import Measures
from dspark.bench.summary import Figure, Summary

Json = dict[str, object]


def make_report(summaries: Sequence[Summary], *, run: Mapping[str, object]) -> Json:
    """Return {"results": one entry for each (load, arm), "run": what was asked, and where}."""
    return {"results": [_entry(summary) for summary in summaries], "run": dict(run)}


def _entry(summary: Summary) -> Json:
    load = summary.load
    entry: Json = {
        "arm": summary.arm.kind,
        "topology": summary.arm.topology,
        "latency_ms": summary.arm.latency_ms,
        "concurrency": load.concurrency,
        "rate_per_s": load.rate_per_s,
    }
    for field in fields(Measures):
        figure = summary.figure(_reader(field.name))
        entry[field.name] = None if figure is None else _rounded(figure.median)
        if field.name in ("tokens_per_s", "user_tokens_per_s"):
            entry[f"{field.name}_spread"] = _spread(figure)
    for name in ("ratio_to_off", "user_ratio_to_off", "ratio_to_best_fixed"):
        ratio: Figure | None = getattr(summary, name)
        entry[name] = None if ratio is None else _rounded(ratio.median)
        entry[f"{name}_spread"] = _spread(ratio)
    return entry | {
        "best_fixed": summary.best_fixed,
        "compared_outputs": summary.compared,
        "differing_outputs": summary.differing,
        "repeats": [
            {name: _rounded(value) for name, value in asdict(measures).items()}
            for measures in summary.repeats
        ],
    }


def _reader(name: str) -> Callable[[Measures], float | None]:
    def read(measures: Measures) -> float | None:
        value: float | None = getattr(measures, name)
        return value

    return read


def _spread(figure: Figure | None) -> list[float] | None:
    return None if figure is None else [_rounded(figure.low), _rounded(figure.high)]


def _rounded(value: float) -> float:
    return value if value is None or isinstance(value, int) else round(value, 4)
