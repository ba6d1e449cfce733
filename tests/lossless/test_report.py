from pathlib import Path

import pytest

from tests.lossless.claims import CLAIMS, HERE, Claim
from tests.lossless.report import Outcome, row_of, unclaimed

A_CLAIM = Claim(text="it holds", tests=("a.py::test_it",), controls=("a.py::test_control",))
GOOD = {
    "a.py::test_it[1]": Outcome(evidence=[(10, "chi-square 3", 0.4)]),
    "a.py::test_it[2]": Outcome(evidence=[(20, "chi-square 9", 0.1)]),
    "a.py::test_control@group": Outcome(),
}


def test_a_row_adds_up_its_cases_and_shows_the_worst() -> None:
    row = row_of(A_CLAIM, GOOD)
    assert (row.n, row.verdict, row.control) == ("30", "holds", "caught: 1 of 1")
    assert row.statistic == "chi-square 9: p = 0.1 (of 2)"
    assert row.sound


def test_a_claim_without_a_failing_control_is_not_sound() -> None:
    row = row_of(A_CLAIM, GOOD | {"a.py::test_control@group": Outcome(passed=False)})
    assert (row.verdict, row.control, row.sound) == ("holds", "NOT CAUGHT", False)


@pytest.mark.parametrize("missing", ["a.py::test_it", "a.py::test_control"])
def test_what_did_not_run_did_not_pass(missing: str) -> None:
    left = {name: outcome for name, outcome in GOOD.items() if not name.startswith(missing)}
    assert not row_of(A_CLAIM, left).sound


def test_a_case_that_was_cut_off_did_not_pass() -> None:
    assert not row_of(A_CLAIM, GOOD | {"a.py::test_it[1]": Outcome(ran=False)}).sound


def test_every_claim_names_tests_that_exist() -> None:
    for claim in CLAIMS:
        for test in (*claim.tests, *claim.controls):
            file, name = test.split("::")
            source = Path(file).read_text(encoding="utf-8")
            assert f"def {name}(" in source or f"{name} = " in source, test


def test_every_test_of_this_folder_belongs_to_a_claim() -> None:
    written = [
        f"{HERE}{file.name}::{line.split('(')[0].removeprefix('def ')}"
        for file in Path(HERE).glob("test_*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("def test_")
    ]
    assert len(written) > 20
    assert unclaimed(written) == []
    assert unclaimed([f"{HERE}test_new.py::test_it"]) == [f"{HERE}test_new.py::test_it"]


def test_every_claim_is_explained_in_the_table_s_order() -> None:
    page = Path("docs/losslessness.md").read_text(encoding="utf-8")
    rows = [line.split("**")[1] for line in page.splitlines() if line.startswith("| **")]
    assert rows == [claim.text for claim in CLAIMS]
