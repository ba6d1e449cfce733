import json
from pathlib import Path

import pytest

from dspark.cli.main import main
from dspark.cli.profile import curve_tables, draw_curve
from tests.fleet_examples import a_curve

CURVE = a_curve({1: 0.010, 4: 0.020}, sessions=(1, 2), context_tokens=(64, 512))
PACED = str(Path(__file__).parents[2] / "configs" / "paced.yaml")


def test_there_is_a_table_for_each_context_in_milliseconds() -> None:
    tables = curve_tables(CURVE)
    assert [str(table.title).rsplit(" ", 1)[1] for table in tables] == ["64", "512"]
    assert [list(column.cells) for column in tables[0].columns] == [
        ["1", "2"],
        ["10.0", "10.0"],
        ["20.0", "20.0"],
    ]


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_curve(CURVE, tmp_path / "curve.svg", title="a curve")
    drawn = (tmp_path / "curve.svg").read_text()
    assert "<svg" in drawn


@pytest.mark.parametrize("pool", ["verifier", "drafter"])
def test_a_paced_pool_is_profiled_on_paper(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["profile", "--config", PACED, "--pool", pool, "--json"])
    assert ended.value.code == 0
    curve = json.loads(capsys.readouterr().out)
    assert curve["device"].startswith("paced: ")
    assert len(curve["points"]) > 3


def test_vllm_is_measured_where_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(Path(PACED).with_name("demo-vllm.yaml"))
    with pytest.raises(SystemExit) as ended:
        main(["profile", "--config", config])
    assert ended.value.code == 1
    assert "measured as it runs" in capsys.readouterr().err
