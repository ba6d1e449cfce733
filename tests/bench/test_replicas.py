from io import StringIO

from rich.console import Console

from dspark.bench.forecast import Sample
from dspark.bench.record import Counts
from dspark.bench.replicas import make_replica_table
from dspark.bench.summary import summarise
from tests.bench.examples import a_cell, a_record, at_speed, served

SAMPLE = Sample(
    arm="adaptive",
    load="1",
    replica="v",
    busy_share=0.9,
    bound_tokens_per_s=300.0,
    step_s=0.020,
    forecast_step_s=0.019,
    schedule_s=0.0002,
    draft_s=0.010,
    forecast_draft_s=0.008,
    hidden_share=0.25,
)


def test_the_reports_of_a_load_are_one_row_for_each_arm() -> None:
    counts = Counts(steps=2, drafted_steps=2, accepted_tokens=4, moved_bytes=800)
    cell = a_cell("adaptive")
    drafted = a_record(cell, served((1.0, 1), (2.0, 5), counts=counts), whole_until_s=2.0)
    paper = StringIO()
    table = make_replica_table([SAMPLE, SAMPLE], summarise([at_speed("off", 1.0), drafted]))
    assert table is not None
    Console(width=164, file=paper).print(table)
    head, row = paper.getvalue().splitlines()
    assert head.split()[:4] == ["load", "arm", "reports", "step"]
    assert row.split() == [
        "1", "adaptive", "2", "20.0", "0.20", "90%", "10%", "25%", "300", "0.95", "0.97", "200",
    ]  # fmt: skip


def test_without_reports_there_is_no_second_table() -> None:
    assert make_replica_table([], summarise([at_speed("off", 1.0)])) is None
