"""Run every claim's tests, print one table: ``python -m tests.lossless.report [pytest args]``."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from rich.console import Console
from rich.table import Table

from tests.lossless.claims import CLAIMS, HERE, Claim
from tests.lossless.evidence import FALSE_ALARM

_WIDTH = 168  # where the output is no terminal


@dataclass(slots=True)
class Outcome:
    """One case of one test; a case that was cut off before its end never ``ran``."""

    passed: bool = True
    ran: bool = True
    evidence: list[tuple[int, str, float | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    claim: str
    test: str
    n: str
    statistic: str
    verdict: str
    control: str
    sound: bool


class Collector:
    """A pytest plugin that remembers how every case went and what it measured."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = self.outcomes.setdefault(report.nodeid, Outcome(ran=False))
        outcome.passed = outcome.passed and report.passed
        if report.when == "call":
            outcome.ran = True
            outcome.evidence += [
                tuple(value)  # type: ignore[misc]
                for name, value in report.user_properties
                if name == "evidence"
            ]


def owner_of(node_id: str) -> str:
    """The test function (or class) that a case belongs to; xdist adds "@group" to a node id."""
    return "::".join(node_id.split("[")[0].split("@")[0].split("::")[:2])


def row_of(claim: Claim, outcomes: Mapping[str, Outcome]) -> Row:
    """Judge one claim: every test must have run and passed, and so must every control."""
    cases = _cases(claim.tests, outcomes)
    controls = _cases(claim.controls, outcomes)
    held = _all_passed(claim.tests, cases)
    caught = _all_passed(claim.controls, controls)
    evidence = [shown for case in cases.values() for shown in case.evidence]
    if set(claim.controls) & set(claim.tests):
        control = "caught, in the same test" if caught else "NOT CAUGHT"
    elif claim.controls:
        control = f"caught: {len(controls)} of {len(controls)}" if caught else "NOT CAUGHT"
    else:
        control = "-"
    files = dict.fromkeys(test.split("::")[0].removeprefix("tests/") for test in claim.tests)
    return Row(
        claim=claim.text,
        test=", ".join(files),
        n=claim.n or _number(evidence, len(cases)),
        statistic=claim.statistic or _statistic(evidence),
        verdict="holds" if held else "FAILS",
        control=control,
        sound=held and caught,
    )


def unclaimed(outcomes: Iterable[str]) -> list[str]:
    """Tests of this folder that belong to no claim."""
    known = {test for claim in CLAIMS for test in (*claim.tests, *claim.controls)}
    known.add(HERE + "test_report.py")
    ours = {owner_of(node_id) for node_id in outcomes if node_id.startswith(HERE)}
    return sorted(t for t in ours if t not in known and t.split("::")[0] not in known)


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the rows, and what the words mean."""
    table = Table(show_lines=False, pad_edge=False)
    for name in ("claim", "test", "n", "statistic (worst case)", "verdict", "control"):
        table.add_column(name, justify="right" if name == "n" else "left", overflow="fold")
    for row in rows:
        style = "" if row.sound else "bold red"
        table.add_row(
            row.claim, row.test, row.n, row.statistic, row.verdict, row.control, style=style
        )
    console.print(table)
    console.print(
        f"A statistic fails below p = {FALSE_ALARM:g}: how often a correct system would fail one "
        "case, over its seeds.\nA control is a system made wrong on purpose: caught means that it "
        "fails the same statistic or comparison."
    )


def main(arguments: Sequence[str]) -> int:
    """Run and print; 0 only if every claim holds and every control is caught."""
    collector = Collector()
    elsewhere = dict.fromkeys(
        test
        for claim in CLAIMS
        for test in (*claim.tests, *claim.controls)
        if not test.startswith(HERE)
    )
    status = pytest.main([HERE, *elsewhere, "-m", "", *arguments], plugins=[collector])
    rows = [row_of(claim, collector.outcomes) for claim in CLAIMS]
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    print_table(rows, console)
    strangers = unclaimed(collector.outcomes)
    if strangers:
        console.print(f"Tests that belong to no claim: {', '.join(strangers)}")
    return int(bool(status) or bool(strangers) or not all(row.sound for row in rows))


def _cases(tests: Sequence[str], outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {node_id: outcome for node_id, outcome in outcomes.items() if owner_of(node_id) in tests}


def _all_passed(tests: Sequence[str], cases: Mapping[str, Outcome]) -> bool:
    ran = {owner_of(node_id) for node_id in cases}
    return ran == set(tests) and all(case.ran and case.passed for case in cases.values())


def _number(evidence: Sequence[tuple[int, str, float | None]], num_cases: int) -> str:
    if evidence:
        return f"{sum(n for n, _, _ in evidence):,}"
    return f"{num_cases} case" + "s" * (num_cases != 1)


def _statistic(evidence: Sequence[tuple[int, str, float | None]]) -> str:
    """The one with the smallest p-value, for all cases."""
    if not evidence:
        return ""
    _, text, p_value = min(evidence, key=lambda shown: 2.0 if shown[2] is None else shown[2])
    if p_value is None:
        return text
    return f"{text}: p = {p_value:.2g} (of {len(evidence)})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
