import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dspark.engines.vllm.line import NoteReceiver
from dspark.engines.vllm.notes import StepNote
from dspark.engines.vllm.teller import StepTeller


def _steps(**changes: Any) -> Any:
    desk = SimpleNamespace(
        num_drafters=2, round_trip_s=0.5, row_bytes=7, draft_bytes=3, outcomes={"hit": 1}
    )
    values = {"desk": desk, "entry": 4, "waited_s": 0.0, "asked": {}}
    return SimpleNamespace(take_round_trips=lambda: (0.25,), **(values | changes))


def _scheduled() -> Any:
    return SimpleNamespace(num_scheduled_tokens={"a": 5}, scheduled_spec_decode_tokens={})


def test_a_step_is_told_with_what_drafting_did(tmp_path: Path) -> None:
    notes: list[StepNote] = []
    receiver = NoteReceiver(tmp_path / "line", notes.append)
    teller = StepTeller(tmp_path / "line", lambda: 0.0)
    teller.begin(_scheduled())
    teller.end([], _steps(), cell=None, failure=None)
    teller.begin(_scheduled())
    teller.end([], _steps(), cell=None, failure=ValueError("x"))
    receiver.drain()
    assert (notes[0].entry, notes[0].drafters, notes[0].round_trips_s) == (4, 2, (0.25,))
    assert (notes[0].batch_tokens, notes[0].failure) == (5, "")
    assert (notes[1].drafters, notes[1].failure) == (0, "ValueError('x')")
    teller.close()
    receiver.close()


def test_what_fails_in_here_ends_the_telling_and_not_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = NoteReceiver(tmp_path / "line", lambda note: None)
    teller = StepTeller(tmp_path / "line", lambda: 0.0)
    with caplog.at_level(logging.ERROR):
        teller.begin(SimpleNamespace())  # type: ignore[arg-type]
        teller.end([], _steps(), cell=None, failure=None)
    assert caplog.text.count("told no more") == 1
    teller.close()
    receiver.close()
