"""One engine, one drafter and one line between them, for all tests."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["*.py"]  # another environment: make e2e-vllm
else:
    from e2e.vllm.drafters import PYTHON, ROOT, DrafterProcess, Line, own_environment
    from e2e.vllm.engine import Engine

    MAX_SESSIONS = 40

    @pytest.fixture(scope="session")
    def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, ...]]]:
        """Plain vLLM's greedy outputs, by requests at once."""
        answer = _run(sys.executable, "e2e.vllm.plain", tmp_path_factory.mktemp("plain"))
        return {at_once: [tuple(o) for o in outputs] for at_once, outputs in answer.items()}

    @pytest.fixture(scope="session")
    def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        """Our own engine's outputs and counts."""
        return _run(PYTHON, "e2e.vllm.ours", tmp_path_factory.mktemp("ours"))

    def _run(python: str, module: str, folder: Path) -> dict[str, Any]:
        file = folder / "answer.json"
        subprocess.run(
            [python, "-m", module, str(file)], cwd=ROOT, env=own_environment(), check=True
        )
        answer: dict[str, Any] = json.loads(file.read_text())
        return answer

    @pytest.fixture(scope="session")
    def drafter() -> Iterator[DrafterProcess]:
        process = DrafterProcess(max_sessions=MAX_SESSIONS)
        yield process
        process.stop()

    @pytest.fixture(scope="session")
    def line(drafter: DrafterProcess) -> Iterator[Line]:
        line = Line(drafter.port)
        yield line
        line.close()

    @pytest.fixture(scope="session")
    def engine(
        plain: object, ours: object, line: Line
    ) -> Iterator[Engine]:  # the others first: one engine at a time
        engine = Engine(line.address)
        yield engine
        engine.drafts.close()
