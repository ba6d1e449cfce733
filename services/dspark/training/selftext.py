"""The target's own text without its loops: samples below T = 1, kept only where they repeat little.

Fine-tuning on it (rejection sampling, as in self-distillation) teaches the target to go on
without looping, and sharpens it, which training against repetition alone would undo.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dspark.training.generation import DenseTarget, generate, temperature_choice
from dspark.training.prompts import PromptSource
from dspark.training.repeats import repeated_share
from dspark.training.target import load_target
from dspark.training.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTextSettings:
    """What to sample; lengths in tokens."""

    work: Path
    target: Path
    out: Path
    """The .npy to write: ids [S, L] (uint16)."""
    num_sequences: int = 1024
    batch: int = 128
    prompt_length: int = 32
    length: int = 257
    temperature: float = 0.7
    most_repeated: float = 0.05
    """Sequences with a larger share of repeated 8-grams are dropped."""
    shares: tuple[tuple[str, float], ...] = (("code", 0.5), ("prose", 0.4), ("arithmetic", 0.1))
    seed: int = 31
    threads: int = 1


def make_selftext(cfg: SelfTextSettings) -> Path:
    """Sample ``num_sequences`` and keep those that do not loop."""
    torch.set_num_threads(cfg.threads)
    tokenizer = load_tokenizer(cfg.target)
    source = PromptSource(cfg.work / "corpus", tokenizer)
    target = DenseTarget(load_target(cfg.target), (0,), torch.bfloat16)
    kept: list[np.ndarray] = []
    for index in tqdm(range(-(-cfg.num_sequences // cfg.batch)), unit="batch"):
        rng = np.random.default_rng([cfg.seed, index])
        prompts = source.prefixes(rng, cfg.batch, cfg.prompt_length, dict(cfg.shares))
        choose = temperature_choice(cfg.temperature, int(rng.integers(1 << 40)))
        for row in generate(target, prompts, cfg.length, choose).ids.numpy():
            if repeated_share(row[cfg.prompt_length :].tolist()) <= cfg.most_repeated:
                kept.append(row.astype(np.uint16))
    print(f"kept {len(kept)} of {cfg.num_sequences}")
    np.save(cfg.out, np.stack(kept))
    return cfg.out
