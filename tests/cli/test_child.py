import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dspark.cli.stack.child import Child

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Child]:
    def child(code: str) -> Child:
        log = tmp_path / "log"
        return Child("it", [sys.executable, "-c", code], log=log, env={"COLOUR": "green"})

    return child


def test_it_runs_until_it_is_asked_to_end(make: Callable[[str], Child]) -> None:
    child = make(SLEEP)
    child.start()
    assert child.alive()
    child.terminate()
    assert child.wait(10.0)
    assert not child.alive()


def test_it_is_killed_when_it_does_not_listen(make: Callable[[str], Child]) -> None:
    child = make(
        f"import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
    )
    child.start()
    while child.last_words() != "deaf":
        time.sleep(0.02)
    child.terminate()
    assert not child.wait(0.2)
    assert child.exit_code() == -9


def test_its_last_words_are_the_last_line_of_its_log(make: Callable[[str], Child]) -> None:
    code = "print(os.environ['COLOUR'], flush=True); sys.exit('out of luck\\n')"
    child = make(f"import os, sys; {code}")
    child.start()
    child.wait(10.0)
    assert child.last_words() == "out of luck"
    assert child.exit_code() == 1


def test_a_dead_one_is_started_again_after_a_pause(make: Callable[[str], Child]) -> None:
    child = make("pass")
    child.start()
    child.wait(10.0)
    first = child.pid
    assert not child.revive(), "not at once"
    deadline_s = time.monotonic() + 10.0
    while not child.revive():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert child.restarts == 1
    assert child.pid != first
    child.wait(10.0)


def test_a_living_one_is_left_alone(make: Callable[[str], Child]) -> None:
    child = make(SLEEP)
    child.start()
    assert not child.revive()
    assert child.record().restarts == 0
    child.terminate()
    child.wait(10.0)
