import logging
import socket
from pathlib import Path

import pytest

from dspark.engines.vllm.line import NoteReceiver, NoteSender
from dspark.engines.vllm.notes import StepNote
from tests.engines.vllm.fake_engine import round_note, step


def test_notes_arrive_in_order_and_the_path_is_needed_for_the_start_only(tmp_path: Path) -> None:
    taken: list[StepNote] = []
    receiver = NoteReceiver(tmp_path / "line", taken.append)
    sender = NoteSender(tmp_path / "line")
    receiver.hide()
    notes = [step(round_note(1, n, 1)) for n in range(5)]
    for note in notes:
        sender.send(note)
    receiver.drain()
    assert taken == notes
    assert sender.unsent == 0
    assert not list(tmp_path.iterdir())
    sender.close()
    receiver.close()


def test_a_replica_that_does_not_read_costs_notes_and_never_time(tmp_path: Path) -> None:
    taken: list[StepNote] = []
    receiver = NoteReceiver(tmp_path / "line", taken.append)
    sender = NoteSender(tmp_path / "line")
    for _ in range(100_000):
        sender.send(step(round_note(1, 1, 1)))
        if sender.unsent:
            break
    assert sender.unsent == 1
    receiver.drain()
    assert taken
    receiver.close()
    sender.send(step())  # nobody is left
    assert sender.unsent == 2
    sender.close()


def test_what_is_no_note_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[StepNote] = []
    receiver = NoteReceiver(tmp_path / "line", taken.append)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        caplog.at_level(logging.WARNING),
    ):
        other.sendto(b"{}", str(tmp_path / "line"))
        receiver.drain()
    assert not taken
    assert "cannot be read" in caplog.text
    receiver.close()


def test_without_a_replica_there_is_no_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NoteSender(tmp_path / "nobody")
