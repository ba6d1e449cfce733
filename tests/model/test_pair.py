import json
import shutil
from pathlib import Path

import pytest

from dspark.model.checkpoint import save_drafter
from dspark.model.pair import load_drafter_side, load_pair, read_pair
from tests.model import tiny


@pytest.fixture(scope="module")
def drafter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafter")
    config = json.loads((tiny.folder("qwen3") / "config.json").read_text())
    save_drafter(folder, tiny.drafter(), config)
    return folder


def changed(folder: Path, where: Path, **values: object) -> Path:
    """A copy of a drafter folder with other configuration values."""
    shutil.copytree(folder, where)
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**config, **values}))
    return where


def test_both_sides_of_a_pair_read_the_same_identity(drafter_folder: Path) -> None:
    pair = load_pair(tiny.folder("qwen3"), drafter_folder, num_pages=16)
    identity, drafter = load_drafter_side(tiny.folder("qwen3"), drafter_folder)
    assert identity == pair.identity
    assert pair.target.projection_id == identity.projection_id != ""
    assert (identity.block_size, identity.target_layer_ids) == (tiny.GAMMA, tiny.TAPS)
    assert drafter.gamma == tiny.GAMMA


def test_a_target_may_be_served_without_a_drafter() -> None:
    pair = load_pair(tiny.folder("qwen3"), None, num_pages=4)
    assert pair.drafter is None
    assert pair.identity.projection_id == ""


def test_another_target_gives_another_projection_id(drafter_folder: Path) -> None:
    ids = {read_pair(tiny.folder("qwen3", seed), drafter_folder).projection_id for seed in (0, 1)}
    assert len(ids) == 2


def test_an_unfit_pair_is_refused_at_load(drafter_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"mean accepted length .* below 3"):
        load_pair(tiny.folder("qwen3"), drafter_folder, num_pages=16, min_accepted_length=3.0)


def test_missing_folders_are_named(tmp_path: Path, drafter_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"target folder .*nowhere does not exist"):
        read_pair(tmp_path / "nowhere", drafter_folder)
    with pytest.raises(ValueError, match=r"drafter folder .*nowhere does not.*set drafter to null"):
        read_pair(tiny.folder("qwen3"), tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"target folder .* has no config\.json"):
        read_pair(tmp_path, drafter_folder)


def test_a_wrong_gamma_is_refused(drafter_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"gamma 7 is configured but .* block_size 5"):
        read_pair(tiny.folder("qwen3"), drafter_folder, gamma=7)


def test_layer_ids_out_of_range_are_refused(drafter_folder: Path, tmp_path: Path) -> None:
    folder = changed(drafter_folder, tmp_path / "d", target_layer_ids=[-1, 0, 9])
    with pytest.raises(ValueError, match="target layer id 9 is outside"):
        read_pair(tiny.folder("qwen3"), folder)


def test_layer_ids_that_the_weights_were_not_trained_with_are_refused(
    drafter_folder: Path, tmp_path: Path
) -> None:
    # In range and as many: neither a shape nor the accepted length would show it.
    folder = changed(drafter_folder, tmp_path / "d", target_layer_ids=[-1, 1, 2])
    with pytest.raises(ValueError, match=r"target_layer_ids is .* were trained with"):
        read_pair(tiny.folder("qwen3"), folder)


def test_another_vocabulary_is_refused(drafter_folder: Path, tmp_path: Path) -> None:
    folder = changed(drafter_folder, tmp_path / "d", vocab_size=300)
    with pytest.raises(ValueError, match="vocab_size 300, this target has 256"):
        read_pair(tiny.folder("qwen3"), folder)


def test_another_tokenizer_is_refused(drafter_folder: Path, tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "drafter"
    shutil.copytree(tiny.folder("qwen3"), target)
    shutil.copytree(drafter_folder, folder)
    for where, words in ((target, ["a"]), (folder, ["b"])):
        (where / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    with pytest.raises(ValueError, match="tokenizer mismatch"):
        read_pair(target, folder)
