"""A pair of three tokens as checkpoints, small enough to enumerate the target's law.

Nothing in the serving path is replaced: a real Qwen3 target and a real drafter, both random.
"""

import itertools
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dspark.config.model import ModelSettings
from dspark.model.checkpoint import save_drafter
from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_config import DrafterConfig

VOCAB, GAMMA = 3, 4
FIRST = 5
"""Tokens in which a session finds its drafter: the first rounds may be plain."""
LENGTH = 4
"""Tokens after them, whose law is compared."""
MAX_NEW_TOKENS = FIRST + LENGTH

_HIDDEN, _LAYERS, _TAPS = 32, 2, (-1, 0)


def make_toy_pair(folder: Path) -> ModelSettings:
    """Write target and drafter; return settings that serve them."""
    torch.manual_seed(11)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=_HIDDEN,
        intermediate_size=48,
        num_hidden_layers=_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    target = Qwen3ForCausalLM(config)
    made = DSparkDrafter(
        DrafterConfig(
            vocab_size=VOCAB,
            hidden_size=_HIDDEN,
            intermediate_size=48,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            num_layers=1,
            num_target_layers=_LAYERS,
            target_layer_ids=_TAPS,
            gamma=GAMMA,
            mask_token_id=0,
            markov_rank=4,
            markov_head_type="vanilla",
        )
    )
    for module in (target, made):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    target.save_pretrained(folder / "target")
    text = (folder / "target" / "config.json").read_text(encoding="utf-8")
    save_drafter(folder / "drafter", made, json.loads(text))
    return ModelSettings(
        name="toy",
        target=str(folder / "target"),
        drafter=str(folder / "drafter"),
        page_tokens=4,
        min_accepted_length=None,
    )


@lru_cache
def sequence_law(target: str, prompt: tuple[int, ...], temperature: float) -> NDArray[np.float64]:
    """The law of the LENGTH tokens after the first FIRST ones: [V ** LENGTH].

    By the plain Hugging Face model, over every sequence.
    """
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    every = list(itertools.product(range(VOCAB), repeat=MAX_NEW_TOKENS))
    rows = torch.tensor([[*prompt, *tokens] for tokens in every])
    with torch.inference_mode():
        logits = model(input_ids=rows).logits[:, len(prompt) - 1 : -1].double()
    p = torch.softmax(logits / temperature, dim=-1)
    chosen = p.gather(2, rows[:, len(prompt) :, None])[..., 0].prod(dim=1)
    law: NDArray[np.float64] = chosen.reshape(VOCAB**FIRST, VOCAB**LENGTH).sum(0).numpy()
    assert abs(law.sum() - 1.0) < 1e-9
    return law


def counted(outputs: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """How often each sequence of LENGTH tokens came: [V ** LENGTH]."""
    tokens = np.array(outputs)[:, FIRST:]
    weights = VOCAB ** np.arange(LENGTH)[::-1]
    counts: NDArray[np.int64] = np.bincount(tokens @ weights, minlength=VOCAB**LENGTH)
    return counts
