import json
import logging
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace

from dspark.telemetry import logs


@pytest.fixture
def record() -> logging.LogRecord:
    return logging.LogRecord("dspark.x", logging.WARNING, "f.py", 1, "lost %s", ("v1",), None)


def read(record: logging.LogRecord) -> dict[str, object]:
    line = logs.JsonLines("verifier", "v1").format(record)
    assert "\n" not in line
    told: dict[str, object] = json.loads(line)
    return told


def test_a_line_says_who_what_and_when(record: logging.LogRecord) -> None:
    told = read(record)
    assert (told["role"], told["replica"], told["level"]) == ("verifier", "v1", "WARNING")
    assert told["message"] == "lost v1"
    assert str(told["time"]).endswith("+00:00")
    assert "request_id" not in told


def test_a_line_says_which_request_and_session_it_is_about(record: logging.LogRecord) -> None:
    with logs.about(request_id="r1", session=4), logs.about(session=5):
        told = read(record)
    assert (told["request_id"], told["session"]) == ("r1", 5)
    record.session = 6
    with logs.about(session=5):
        assert read(record)["session"] == 6, "what the line itself says counts"


def test_a_line_within_a_span_names_its_trace(record: logging.LogRecord) -> None:
    context = trace.SpanContext(trace_id=0xAB, span_id=0xCD, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        told = read(record)
    assert told["trace_id"] == f"{0xAB:032x}"
    assert told["span_id"] == f"{0xCD:016x}"


def test_a_traceback_is_one_field(record: logging.LogRecord) -> None:
    try:
        raise ValueError("over\ntwo lines")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "two lines" in str(read(record)["exception"])


@pytest.fixture
def untouched() -> Iterator[logging.Logger]:
    ours = logging.getLogger("dspark")
    before = ours.handlers, ours.level, ours.propagate
    yield ours
    ours.handlers, ours.level, ours.propagate = before[0], before[1], before[2]


def test_json_is_chosen_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, untouched: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.start("drafter", "d1", hosted=True)
    assert not untouched.handlers, "text in a process of somebody else's is theirs"
    monkeypatch.setenv(logs.FORMAT, "json")
    logs.start("drafter", "d1", hosted=True)
    logging.getLogger("dspark.x").info("up")
    assert json.loads(capsys.readouterr().err)["replica"] == "d1"
    monkeypatch.setenv(logs.FORMAT, "xml")
    with pytest.raises(ValueError, match="'xml': set it to text or json"):
        logs.start("drafter")
