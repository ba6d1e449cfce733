"""The committed protocol code is what the protos say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "services" / "dspark" / "wire" / "v1"


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="needs the dev extra")
    protos = sorted((ROOT / "proto" / "dspark" / "wire" / "v1").glob("*.proto"))
    assert protos
    # The mypy plugins lie beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I",
            str(ROOT / "proto"),
            f"--python_out={tmp_path}",
            f"--grpc_python_out={tmp_path}",
            f"--mypy_out=quiet:{tmp_path}",
            f"--mypy_grpc_out=quiet:{tmp_path}",
            *map(str, protos),
        ],
        check=True,
        env={**os.environ, "PATH": path},
    )
    fresh = {file.name: file.read_text() for file in (tmp_path / "dspark/wire/v1").iterdir()}
    committed = {file.name: file.read_text() for file in GENERATED.glob("*_pb2*") if file.is_file()}
    assert sorted(fresh) == sorted(committed)
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, f"run `make proto`: {stale} differ from the protos"
