"""The configurations in configs/ are valid and say what their names promise."""

from pathlib import Path

import pytest

from dspark.config.load import load_system

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_configuration_is_valid(file: Path) -> None:
    load_system(file)


def test_the_demo_serves_the_packaged_pair_on_one_machine() -> None:
    settings = load_system(CONFIGS / "demo.yaml")
    assert settings.model.target == "builtin:demo/target"
    assert settings.ray.address is None
    # With one thread an engine, three pools fit on a laptop.
    assert settings.model.threads == 1


def test_the_qwen3_pools_go_to_nodes_of_their_own() -> None:
    settings = load_system(CONFIGS / "qwen3-4b.yaml")
    assert settings.model.target == "Qwen/Qwen3-4B"
    assert settings.model.drafter == "deepseek-ai/dspark_qwen3_4b_block7"
    pools = settings.pools
    kinds = [set(pool.resources) for pool in (pools.prefill, pools.drafter, pools.verifier)]
    assert kinds == [{"dspark_prefill"}, {"dspark_drafter"}, {"dspark_verifier"}]
    assert all(pool.num_gpus > 0 for pool in (pools.prefill, pools.drafter, pools.verifier))
    assert settings.endpoint.advertise_host == "auto"
