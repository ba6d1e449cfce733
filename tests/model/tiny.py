"""Tiny random models, made once for each test run."""

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import torch
import transformers
from torch import nn

from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_config import DrafterConfig
from dspark.model.projection import Projection
from dspark.model.target import TargetRunner

VOCAB, HIDDEN, LAYERS, GAMMA = 256, 64, 4, 5
TAPS = (-1, 0, 2)

COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}

CONFIGS = {
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, head_dim=32),
    "llama": lambda: transformers.LlamaConfig(**COMMON),
    "mistral": lambda: transformers.MistralConfig(**COMMON, sliding_window=24),
    "qwen2": lambda: transformers.Qwen2Config(**COMMON),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **COMMON, head_dim=32, sliding_window=16, query_pre_attn_scalar=32
    ),
    "gemma2": lambda: transformers.Gemma2Config(**COMMON, head_dim=32, sliding_window=16),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=2, n_head=4
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **COMMON, head_dim=16, num_local_experts=2, num_experts_per_tok=1
    ),
}


@lru_cache
def folder(name: str, seed: int = 0) -> Path:
    """A saved random model of this family."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
    for parameter in model.parameters():  # far from zero, so that a wrong attention shows
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.08)
    path = Path(mkdtemp(prefix=f"tiny-{name}-"))
    model.save_pretrained(path)
    return path


def plain(name: str) -> nn.Module:
    """The plain Hugging Face model."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder(name), attn_implementation="eager", dtype=torch.float32
    ).eval()


@lru_cache
def projection() -> Projection:
    """A random projection of three tapped layers."""
    generator = torch.Generator().manual_seed(4)
    return Projection(
        fc=torch.randn(HIDDEN, len(TAPS) * HIDDEN, generator=generator) * 0.1,
        hidden_norm=torch.rand(HIDDEN, generator=generator) + 0.5,
        projection_id="test",
    )


def runner(
    name: str = "qwen3", *, num_pages: int = 64, rows_dtype: str = "float32"
) -> TargetRunner:
    """A loaded target with taps and rows."""
    return TargetRunner.load(
        folder(name),
        num_pages=num_pages,
        tap_layers=TAPS,
        projection=projection(),
        rows_dtype=rows_dtype,
        max_batch_tokens=256,
    )


def drafter(head: str = "vanilla", *, num_layers: int = 2, seed: int = 0) -> DSparkDrafter:
    """A random drafter for the tiny targets."""
    torch.manual_seed(seed)
    made = DSparkDrafter(
        DrafterConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=128,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            num_layers=num_layers,
            num_target_layers=LAYERS,
            target_layer_ids=TAPS,
            gamma=GAMMA,
            mask_token_id=3,
            markov_rank=0 if head == "none" else 8,
            markov_head_type=head,  # type: ignore[arg-type]
        )
    )
    for parameter in made.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.1)
    return made.eval().requires_grad_(False)


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (length,), generator=generator).tolist()
