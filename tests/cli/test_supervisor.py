from pathlib import Path

import pytest

from dspark.cli.stack.supervisor import Supervisor
from dspark.config.system import SystemSettings


def test_an_interpreter_that_is_not_there_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    system = SystemSettings.model_validate(
        {
            "gateway": {"speculation_mode": "rejection"},
            "pools": {
                "prefill": {"replicas": 0},
                "verifier": {"engine": "vllm", "vllm": {"python": str(tmp_path / "python")}},
            },
        }
    )
    with pytest.raises(ValueError, match=r"pools\.verifier\.vllm\.python .*there is no such file"):
        Supervisor(system, state_dir=tmp_path / "state", source="a test")
    assert not list((tmp_path / "state").iterdir())
