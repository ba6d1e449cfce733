"""A random pair of a few hundred kilobytes, for where no trained one is at hand."""

import json
import string
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dspark.model.checkpoint import save_drafter
from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_config import DrafterConfig
from dspark.training.tokenizer import train_tokenizer

_GAMMA, _HIDDEN, _LAYERS = 5, 64, 3
_TAPS = (-1, 0, 1)


def make_tiny_pair(folder: Path) -> tuple[Path, Path]:
    """Write a target and a drafter that fits it; return their folders."""
    target, drafter = folder / "target", folder / "drafter"
    tokenizer = train_tokenizer([string.printable, "def the of return and in"], 300)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=128,
        num_hidden_layers=_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    made = DSparkDrafter(
        DrafterConfig(
            vocab_size=len(tokenizer),
            hidden_size=_HIDDEN,
            intermediate_size=128,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            num_layers=1,
            num_target_layers=_LAYERS,
            target_layer_ids=_TAPS,
            gamma=_GAMMA,
            mask_token_id=tokenizer.mask_token_id,
            markov_rank=8,
            markov_head_type="vanilla",
        )
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.1)
    save_drafter(drafter, made, json.loads((target / "config.json").read_text()))
    return target, drafter
