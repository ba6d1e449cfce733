"""The pair check: what the Job and its pods say, as a verdict."""

from typing import Any

import pytest

from dspark_operator.pair import Verdict, read_check

JOB: dict[str, Any] = {"metadata": {"name": "check"}}
FAILED = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "too late"}]}}


def _pod(code: int, message: str, *, job: str = "check") -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "message": message}}
    return {
        "metadata": {"labels": {"job-name": job}},
        "status": {"containerStatuses": [{"name": "pair-check", "state": ended}]},
    }


NO = _pod(1, "loading\ndspark: another target\n")


@pytest.mark.parametrize(
    ("live", "pods", "verdict"),
    [
        (None, [], Verdict.RUNNING),
        ({"status": {}}, [_pod(137, "")], Verdict.RUNNING),
        ({"status": {}}, [_pod(1, "dspark: no", job="another")], Verdict.RUNNING),
        # Told at once, though the Job tries again; what a later try finds counts.
        ({"status": {}}, [NO], Verdict.UNFIT),
        (FAILED, [NO], Verdict.UNFIT),
        ({"status": {"succeeded": 1}}, [NO], Verdict.FITS),
        (FAILED, [_pod(137, "")], Verdict.BROKEN),
    ],
)
def test_a_verdict_is_the_checks_own_word(
    live: dict[str, Any] | None, pods: list[dict[str, Any]], verdict: Verdict
) -> None:
    check = read_check(JOB, live, pods)
    assert check.verdict is verdict
    if verdict is Verdict.UNFIT:
        assert check.message == "another target"
    if verdict is Verdict.BROKEN:
        assert "too late" in check.message


def test_without_a_drafter_nothing_is_compared() -> None:
    assert read_check(None, None, []).step is None
