import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dspark.cli.stack.record import (
    ChildRecord,
    StackRecord,
    read_record,
    require_running,
    write_record,
)
from dspark.cli.stack.sweep import MARK, marked_processes, scratch_name, sweep


def record(**changes: object) -> StackRecord:
    me = psutil.Process()
    fields: dict[str, object] = {
        "phase": "ready",
        "supervisor_pid": me.pid,
        "supervisor_started": me.create_time(),
        "model": "m",
        "config": "defaults",
        "gateway": "http://127.0.0.1:1",
        "controller": "127.0.0.1:2",
        "mark": "abc",
        "children": {"gateway": ChildRecord(pid=1, restarts=0, alive=True)},
    }
    return StackRecord(**(fields | changes))  # type: ignore[arg-type]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    assert read_record(tmp_path) == record()


def test_no_record_means_nothing_was_started(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(ValueError, match="remove it and start again"):
        read_record(tmp_path)


def test_a_pid_that_was_given_to_another_process_is_not_the_supervisor(tmp_path: Path) -> None:
    old = record(supervisor_started=psutil.Process().create_time() - 3600)
    assert old.supervisor() is None
    write_record(tmp_path, old)
    with pytest.raises(ValueError, match="no stack runs here"):
        require_running(tmp_path)


def test_marked_processes_are_found_and_ended() -> None:
    mark = f"test-{os.getpid()}-{time.time_ns()}"
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, MARK: mark}
    )
    assert [process.pid for process in marked_processes(mark)] == [child.pid]
    assert sweep(mark, patience_s=10.0) == 1
    child.wait(10.0)
    assert marked_processes(mark) == []


def test_a_process_that_lost_its_environment_is_found_by_its_log(tmp_path: Path) -> None:
    mark = f"{time.time_ns():x}"
    folder = tmp_path / scratch_name(mark)
    folder.mkdir()
    with (folder / "agent.log").open("w") as log:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=log)
    assert [process.pid for process in marked_processes(mark)] == [child.pid]
    assert sweep(mark, patience_s=10.0) == 1
    child.wait(10.0)
