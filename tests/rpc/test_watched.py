import logging
from pathlib import Path

import pytest

from dspark.rpc.watched import Watched


def a_number(file: Path) -> Watched[int]:
    return Watched([file], lambda: int(file.read_text()))


def test_a_changed_file_is_read_again_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("7")
    watched = a_number(file)
    assert watched.current() == (7, 1)
    assert watched.current() == (7, 1)
    file.write_text("11")
    assert watched.current() == (11, 2)


def test_a_file_replaced_by_another_of_its_size_is_read_again(tmp_path: Path) -> None:
    file, fresh = tmp_path / "number", tmp_path / "fresh"
    file.write_text("7")
    watched = a_number(file)
    fresh.write_text("8")
    fresh.replace(file)
    assert watched.current() == (8, 2)


def test_what_cannot_be_read_is_said_once_and_the_last_good_reading_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "number"
    file.write_text("7")
    watched = a_number(file)
    file.write_text("half a num")
    with caplog.at_level(logging.WARNING):
        assert [watched.current(), watched.current()] == [(7, 1), (7, 1)]
    assert len(caplog.records) == 1
    file.write_text("12")
    assert watched.current() == (12, 2)


def test_the_first_reading_must_be_good(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("none")
    with pytest.raises(ValueError, match="none"):
        a_number(file)
