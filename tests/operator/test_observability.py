"""Alerts and dashboard speak of metrics that exist, with labels that they have."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspark.telemetry.reference import families
from tests.operator.cases import ROOT

FOLDER = ROOT / "deploy/observability"
_ADDED_BY_PROMETHEUS = {"namespace", "pod", "job", "instance", "le"}


def _exposed() -> dict[str, set[str]]:
    """Every series name of the metrics table, with its labels."""
    return {name: set(each.labels) for each in families() for name in each.series}


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


def _alerts() -> list[str]:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"]]


def test_every_alert_has_a_test_and_a_line_in_the_runbook() -> None:
    tests = (FOLDER / "alerts_test.yaml").read_text()
    runbook = (ROOT / "docs/operations.md").read_text().partition("## Alerts")[2]
    for alert in _alerts():
        fires = f'ALERTS{{alertname="{alert}", alertstate="firing", '
        assert fires in tests, f"{alert} is never seen to fire"
        assert f"\n| `{alert}` |" in runbook, alert
    named = re.findall(r"\n\| `(DSpark\w+)` \|", runbook)
    assert sorted(named) == sorted(_alerts()), "in the runbook, and no alert"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="apt-get install prometheus")
def test_prometheus_takes_the_rules_and_fires_them_when_it_should() -> None:
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(
            ["promtool", *words],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="apt-get install prometheus")
def test_control_a_rule_that_is_too_deaf_is_caught(tmp_path: Path) -> None:
    for name in ("alerts.yaml", "alerts_test.yaml"):
        text = (FOLDER / name).read_text()
        (tmp_path / name).write_text(text.replace("> 0.02 *", "> 0.2 *"))
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "DSparkErrors" in done.stdout + done.stderr
