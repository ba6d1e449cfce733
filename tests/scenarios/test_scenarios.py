from pathlib import Path

import pytest

from tests.scenarios.transcript import play

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_controller_answers_as_written(path: Path) -> None:
    written = path.read_text()
    assert play(written) == written


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 5
