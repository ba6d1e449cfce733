"""``dspark demo`` as a visitor runs it: to its summary, then Ctrl-C."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dspark.cli.stack.sweep import marked_processes
from e2e.conftest import stack_words
from e2e.stack import ROOT, dspark, environment, wait_until

pytestmark = pytest.mark.slow


def test_the_demo_compares_serves_and_leaves_nothing_behind(
    model_words: list[str], tmp_path: Path
) -> None:
    words = ["demo", "--max-tokens", "32", *stack_words(model_words, tmp_path)]
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "dspark.cli", *words],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: "serving until Ctrl-C" in output.read_text() or child.poll() is not None,
            timeout_s=600,
            what="the summary",
        )
        said = output.read_text()
        assert "The text is identical with drafting on and off" in said, said
        assert "ready at http://127.0.0.1:" in said
        mark = json.loads((tmp_path / "stack.json").read_text())["mark"]
        assert len(marked_processes(mark)) >= 6
    finally:
        child.send_signal(signal.SIGINT)
        code = child.wait(timeout=90)
    assert code == 0
    assert marked_processes(mark) == []
    assert "stopped, no process left" in output.read_text()


def test_a_missing_model_is_one_line_and_nothing_stays(tmp_path: Path) -> None:
    words = stack_words(["--set", "model.target=/no/such/folder"], tmp_path)
    done = dspark("up", "--detach", *words, timeout_s=600)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "/no/such/folder" in line
    assert marked_processes(json.loads((tmp_path / "stack.json").read_text())["mark"]) == []
