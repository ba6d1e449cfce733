"""The drafter's training set: sequences, most of them the target's own, with its features.

One folder holds shards: ids (uint16) and rows (float16: tapped features, then the last hidden
state), each sequence of one common length. Features are made once and read by memory map.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dspark.training.generation import DenseTarget, Generated, generate, temperature_choice
from dspark.training.prompts import PromptSource
from dspark.training.target import load_target
from dspark.training.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSettings:
    """What to generate; lengths in tokens."""

    work: Path
    target: Path
    out: Path
    target_layer_ids: tuple[int, ...] = (1, 3, 4)
    length: int = 320
    num_sequences: int = 4096
    batch: int = 128
    prompt_lengths: tuple[int, ...] = (16, 32, 48, 80)
    temperatures: tuple[tuple[float, float], ...] = ((0.0, 0.3), (0.7, 0.2), (1.0, 0.5))
    """(temperature, share) of the generated batches."""
    corpus_share: float = 0.15
    """Share of batches that are corpus text instead of generated text."""
    shares: tuple[tuple[str, float], ...] = (("code", 0.5), ("prose", 0.38), ("arithmetic", 0.12))
    seed: int = 21
    threads: int = 1


def make_features(cfg: FeatureSettings) -> Path:
    """Write shards until there are ``num_sequences``; resumes after the last whole shard."""
    torch.set_num_threads(cfg.threads)
    cfg.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(cfg.target)
    source = PromptSource(cfg.work / "corpus", tokenizer)
    target = DenseTarget(load_target(cfg.target), cfg.target_layer_ids, torch.bfloat16)
    shares = dict(cfg.shares)
    began = time.monotonic()
    for shard in tqdm(range(-(-cfg.num_sequences // cfg.batch)), unit="shard"):
        stem = cfg.out / f"{cfg.seed}-{shard:04d}"
        if stem.with_suffix(".json").exists():
            continue
        rng = np.random.default_rng([cfg.seed, shard])
        temperature: float | None = None
        if rng.random() < cfg.corpus_share:
            ids = source.streams.windows(rng, cfg.batch, cfg.length, shares)
            made = _read_through(target, ids)
        else:
            options = [t for t, _ in cfg.temperatures]
            temperature = float(rng.choice(options, p=[p for _, p in cfg.temperatures]))
            prompt_length = int(rng.choice(cfg.prompt_lengths))
            prompts = source.prefixes(rng, cfg.batch, prompt_length, shares)
            choose = temperature_choice(temperature, int(rng.integers(1 << 40)))
            made = generate(target, prompts, cfg.length, choose)
        rows = torch.cat((made.features.float(), made.hidden.float()), -1)
        np.save(stem.with_suffix(".ids.npy"), made.ids.numpy().astype(np.uint16))
        np.save(stem.with_suffix(".rows.npy"), rows.numpy().astype(np.float16))
        facts = {"temperature": temperature, "tokens": made.ids.numel()}
        stem.with_suffix(".json").write_text(json.dumps(facts))
    print(f"made in {time.monotonic() - began:.0f} s")
    return cfg.out


@torch.no_grad()
def _read_through(target: DenseTarget, ids: Tensor, part: int = 16) -> Generated:
    features, hidden = [], []
    for begin in range(0, ids.shape[0], part):
        piece = ids[begin : begin + part]
        f, h = target.forward(piece, target.new_cache(piece.shape[0], ids.shape[1]))
        features.append(f)
        hidden.append(h)
    return Generated(ids=ids, features=torch.cat(features), hidden=torch.cat(hidden))


class FeatureSet:
    """Reads what ``make_features`` wrote; new shards are found by ``refresh``."""

    def __init__(self, folder: Path, hidden_size: int) -> None:
        self._folder = folder
        self._hidden_size = hidden_size
        self._ids: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._known: set[str] = set()
        self.refresh()

    def refresh(self) -> int:
        """Map shards not seen yet; return the number of sequences."""
        for done in sorted(self._folder.glob("*.json")):
            if done.stem in self._known:
                continue
            self._known.add(done.stem)
            self._ids.append(np.load(done.with_suffix(".ids.npy"), mmap_mode="r"))
            self._rows.append(np.load(done.with_suffix(".rows.npy"), mmap_mode="r"))
        return sum(len(ids) for ids in self._ids)

    def epochs(self, seed: int, batch: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield (ids [S, L], features [S, L, m * D], hidden [S, L, D]) forever, shuffled.

        ``skip`` leaves out that many batches without reading them, to resume.
        """
        epoch = 0
        while True:
            self.refresh()
            index = [(s, r) for s, ids in enumerate(self._ids) for r in range(len(ids))]
            if len(index) < batch:
                raise ValueError(
                    f"{self._folder} holds {len(index)} sequences, fewer than a batch of {batch}: "
                    "make features first"
                )
            order = np.random.default_rng([seed, epoch]).permutation(len(index))
            for begin in range(0, len(order) - batch + 1, batch):
                if skip > 0:
                    skip -= 1
                    continue
                picked = [index[i] for i in order[begin : begin + batch]]
                ids = np.stack([self._ids[s][r] for s, r in picked]).astype(np.int64)
                rows = torch.from_numpy(np.stack([self._rows[s][r] for s, r in picked])).float()
                split = rows.shape[-1] - self._hidden_size
                yield torch.from_numpy(ids), rows[..., :split], rows[..., split:]
            epoch += 1
