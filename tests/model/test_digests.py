import json
import shutil
from pathlib import Path

import pytest

from dspark.model.digests import target_digest
from tests.model import tiny


def test_equal_folders_have_equal_digests_and_other_weights_another(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder("qwen3"), copy)
    assert target_digest(copy) == target_digest(tiny.folder("qwen3"))
    assert target_digest(tiny.folder("qwen3", 1)) != target_digest(tiny.folder("qwen3"))


def test_the_configuration_counts_but_not_who_wrote_it(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder("qwen3"), copy)
    before = target_digest(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    assert target_digest(copy) == before
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert target_digest(copy) != before


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        target_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no \*\.safetensors file"):
        target_digest(tmp_path)
