from io import StringIO

from rich.console import Console

from dspark.bench.record import Counts
from dspark.bench.summary import summarise
from dspark.bench.table import make_table, notes
from tests.bench.examples import a_cell, a_record, at_speed, served


def test_the_table_has_every_arm_and_what_it_reached() -> None:
    records = [at_speed(arm, speed) for arm, speed in (("off", 100.0), ("adaptive", 250.0))]
    paper = StringIO()
    table = make_table(summarise(records), {("1", "adaptive"): 500.0})
    Console(width=164, file=paper).print(table)
    lines = paper.getvalue().splitlines()
    assert " ".join(lines[0].split()) == (
        "load arm tokens/s tok/s/user TTFT ms token ms p50/p99 tau verified/req wasted plain x off "
        "user x off of bound differ"
    )
    assert lines[2].split()[:4] == ["1", "adaptive", "250", "±0%"]
    assert "2.50 (2.50-2.50)" in lines[2]
    assert (lines[1].split()[-2], lines[2].split()[-2]) == ("-", "50%")


def test_a_different_output_is_said_loudly() -> None:
    records = [at_speed("off", 1.0), at_speed("adaptive", 1.0, text="other")]
    assert notes(summarise(records)) == ["The output is NOT identical: 1 of 1 differ from off."]


def test_without_off_nothing_is_claimed() -> None:
    (note,) = notes(summarise([at_speed("adaptive", 1.0)]))
    assert note.startswith("Nothing was compared")


def test_a_fixed_arm_that_the_budget_trimmed_is_not_called_fixed() -> None:
    def fixed(name: str, counts: Counts) -> list[str]:
        cell = a_cell(name)
        record = a_record(cell, served((1.0, 1), (2.0, 5), counts=counts), whole_until_s=2.0)
        return notes(summarise([record]))[1:]

    whole = Counts(steps=2, drafted_steps=2, drafted_tokens=4, verified_tokens=4)
    trimmed = Counts(steps=4, drafted_steps=3, plain_steps=1, drafted_tokens=8, verified_tokens=6)
    assert fixed("fixed:2", whole) == []
    assert fixed("fixed:7", trimmed) == [
        "fixed:7 at 1 was not fixed: 75% of its drafts were verified, "
        "1.0 steps of a request had none"
    ]
