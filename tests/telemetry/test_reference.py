import re
from pathlib import Path

from dspark.telemetry.reference import document, families

ROOT = Path(__file__).parents[2]
_WORDS = re.compile(r"[a-z][a-z0-9_]*(:[a-z0-9_]+)?")


def test_the_page_is_the_table() -> None:
    written = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert written == document(), "python -m dspark.telemetry.reference > docs/metrics.md"


def test_names_follow_prometheus_and_every_metric_says_what_it_is() -> None:
    known = list(families())
    assert len({each.name for each in known}) == len(known) > 30
    for each in known:
        assert _WORDS.fullmatch(each.name)
        assert each.name.startswith(("dspark_", "vllm:"))
        assert each.text
        assert not each.name.endswith(("_total", "_info")), "the client library adds them"
        if each.kind == "histogram" and each.name.startswith("dspark_"):
            assert each.name.endswith(("_seconds", "_tokens", "_sessions")), "with its unit"


def test_no_metric_is_declared_and_never_set() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "services").rglob("*.py")
        if path.parent.name != "telemetry"
    )
    for each in families():
        assert f"metrics.{each.variable}." in code or f"metrics.{each.variable}\n" in code


def test_every_metric_that_the_documents_name_exists() -> None:
    series = {name for each in families() for name in (each.name, *each.series)}
    for page in ("docs/operations.md", "docs/performance.md", "docs/protocol.md", "README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in re.findall(r"`((?:dspark_|vllm:)[a-z_]+)(?:\{[^}]*\})?`", text):
            assert name in series, f"{page}: {name}"
