"""The table of metrics as a page: ``python -m dspark.telemetry.reference > docs/metrics.md``."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.metrics import MetricWrapperBase

from dspark.telemetry import metrics

_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}
_PARTS = {
    "dspark_": "Its own",
    "vllm:": "vLLM's names and meanings, so that existing dashboards and schedulers work unchanged",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric.

    Attributes:
        variable: Its name in ``metrics.py``.
        name: Without a type's suffix.
        kind: counter, gauge, histogram or info.
        labels: Its labels; those of an info are free.
        text: What it says.
    """

    variable: str
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus keeps it; the first one is what people look for."""
        return tuple(f"{self.name}{suffix}" for suffix in _SUFFIXES[self.kind])


def families() -> Iterator[Family]:
    """Yield every metric, in the order of the table."""
    for variable, value in vars(metrics).items():
        if isinstance(value, MetricWrapperBase):
            (described,) = value.describe()
            yield Family(
                variable=variable,
                name=described.name,
                kind=described.type,
                labels=tuple(value._labelnames),
                text=described.documentation,
            )


def document() -> str:
    """Return the page."""
    lines = [
        "# Metrics",
        "",
        "Every process serves these as Prometheus text. Generated from `dspark.telemetry.metrics`:",
        "`python -m dspark.telemetry.reference > docs/metrics.md`. Histograms have the usual",
        "`_bucket`, `_sum` and `_count`.",
    ]
    known = list(families())
    for prefix, title in _PARTS.items():
        lines += ["", f"## {title}", "", "| metric | type | labels | says |", "|---|---|---|---|"]
        for family in known:
            if family.name.startswith(prefix):
                name = family.name if family.kind == "histogram" else family.series[0]
                labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
                lines.append(f"| `{name}` | {family.kind} | {labels} | {family.text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
