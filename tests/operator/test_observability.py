"""Alerts and dashboard speak of metrics that exist, with labels that they have."""

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from dspark.telemetry import metrics
from tests.operator.cases import ROOT

FOLDER = ROOT / "deploy/observability"
_ADDED_BY_PROMETHEUS = {"namespace", "pod", "job", "instance", "le"}
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}


def _exposed() -> dict[str, set[str]]:
    """Every series name of the metrics table, with its labels."""
    exposed: dict[str, set[str]] = {}
    for value in vars(metrics).values():
        describe = getattr(value, "describe", None)
        if describe is None or isinstance(value, type) or not hasattr(value, "_labelnames"):
            continue
        (family,) = describe()
        assert isinstance(family, Metric)
        for suffix in _SUFFIXES[family.type]:
            exposed[f"{family.name}{suffix}"] = set(value._labelnames)
    return exposed


def _expressions() -> list[tuple[str, str]]:
    """Every PromQL expression: (where, expression)."""
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    found = [(r["alert"], r["expr"]) for g in rules["groups"] for r in g["rules"]]
    dashboard: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", [])]
    return found


_SERIES = re.compile(r"\b(?:dspark_|vllm:)[a-z_]+")
_SELECTOR = re.compile(r"((?:dspark_|vllm:)[a-z_]+)\{([^}]*)\}")
_GROUPED = re.compile(r"by \(([^)]*)\)")


@pytest.mark.parametrize(("where", "expression"), _expressions())
def test_every_metric_and_label_exists(where: str, expression: str) -> None:
    exposed = _exposed()
    named = _SERIES.findall(expression)
    assert named
    labels = set(_ADDED_BY_PROMETHEUS)
    for name in named:
        assert name in exposed, f"{where}: {name} is not in dspark.telemetry.metrics"
        labels |= exposed[name]
    for name, selector in _SELECTOR.findall(expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector):
            assert label in exposed[name] | _ADDED_BY_PROMETHEUS, f"{where}: {name} {label}"
    for group in _GROUPED.findall(expression):
        for label in group.split(","):
            assert label.strip() in labels, f"{where}: by {label}"


def test_every_alert_says_what_it_means() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]


def test_panels_do_not_overlap() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
