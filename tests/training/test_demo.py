import json
from collections import Counter
from pathlib import Path

import pytest
import torch

import dspark.demo
from dspark.core.calibration import parse_calibration
from dspark.model.checkpoint import load_drafter
from dspark.training.prompts import read_prompts
from dspark.training.target import load_target
from dspark.training.tokenizer import load_tokenizer

DEMO = Path(dspark.demo.__file__).parent


def test_the_demo_fits_into_40_megabytes():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 40e6


def test_the_pair_fits_together():
    target, drafter = load_target(DEMO / "target"), load_drafter(DEMO / "drafter", gamma=7)
    drafter.config.require_target(
        hidden_size=target.config.hidden_size,
        vocab_size=target.config.vocab_size,
        num_layers=target.config.num_hidden_layers,
    )
    assert torch.equal(drafter.lm_head.weight, target.lm_head.weight)
    assert torch.equal(drafter.embed_tokens.weight, target.model.embed_tokens.weight)
    tokenizer = load_tokenizer(DEMO / "target")
    assert drafter.config.mask_token_id == tokenizer.mask_token_id


@pytest.mark.parametrize("mode", ["greedy", "coupled"])
def test_the_calibration_belongs_to_the_drafter(mode):
    document = json.loads((DEMO / "drafter" / "sts.json").read_text())
    fitted = parse_calibration(document[mode], 7)
    assert fitted.mode == mode
    assert fitted.num_samples >= 10_000
    assert fitted.ece_after <= fitted.ece_before


def test_there_are_enough_prompts_of_every_domain_and_none_is_too_long():
    prompts = read_prompts(DEMO / "prompts.jsonl")
    counts = Counter(prompt.domain for prompt in prompts)
    assert counts["code"] >= 70
    assert counts["prose"] >= 70
    assert counts["arithmetic"] >= 60
    assert len(prompts) >= 240
    tokenizer = load_tokenizer(DEMO / "target")
    assert all(32 <= len(tokenizer.encode(prompt.prompt)) <= 160 for prompt in prompts)
