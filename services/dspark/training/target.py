"""Train the target: a small Qwen3 causal language model on the corpus."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from dspark.training.corpus import (
    CorpusSettings,
    Document,
    collect,
    read_documents,
    write_documents,
)
from dspark.training.journal import append_facts
from dspark.training.optimizer import MuonAdamW, schedule
from dspark.training.stream import Streams, build_streams, document_ids, load_streams, save_streams
from dspark.training.tokenizer import EOS, load_tokenizer, train_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """How to train the target; every length is in tokens."""

    work: Path
    """Folder of the corpus, the checkpoints and the logs."""
    out: Path
    """Folder that receives the finished model."""
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    max_positions: int = 2048
    num_tokens: int = 6_000_000
    """Training tokens in all."""
    batch_tokens: int = 4096
    short_length: int = 256
    long_length: int = 512
    long_from: float = 0.75
    """Share of training after which windows have ``long_length``."""
    muon_lr: float = 6e-3
    adam_lr: float = 3e-3
    weight_decay: float = 0.05
    shares: dict[str, float] = field(
        default_factory=lambda: {"code": 0.62, "prose": 0.24, "arithmetic": 0.14}
    )
    seed: int = 7
    threads: int = 2
    checkpoint_s: float = 150.0
    deadline_s: float | None = None
    """Wall-clock limit; the schedule then follows time instead of tokens."""


def prepare_corpus(cfg: TargetSettings) -> tuple[PreTrainedTokenizerFast, Streams]:
    """Collect, split and encode the corpus once; later calls read it back."""
    folder = cfg.work / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.jsonl").exists():
        train, held = collect(cfg.corpus)
        write_documents(folder / "heldout.jsonl", held)
        write_documents(folder / "train.jsonl", train)
    if not (folder / "train.npz").exists():
        train = read_documents(folder / "train.jsonl")
        tokenizer = train_tokenizer(_texts(train), cfg.vocab_size)
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        save_streams(folder / "train.npz", build_streams(tokenizer, train, cfg.seed))
    return load_tokenizer(folder / "tokenizer"), load_streams(folder / "train.npz")


def _texts(documents: list[Document]) -> list[str]:
    rng = np.random.default_rng(0)
    texts = []
    for document in documents:
        if document.domain == "code" and document.question is None and rng.random() > 0.4:
            continue
        texts.append(document.text if document.question is None else document.question)
    return texts


def new_target(cfg: TargetSettings, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Create the target with small random weights."""
    torch.manual_seed(cfg.seed)
    config = Qwen3Config(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.intermediate_size,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        max_position_embeddings=cfg.max_positions,
        tie_word_embeddings=True,
        rope_theta=10000.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = [
        tokenizer.convert_tokens_to_ids(EOS),
        tokenizer.convert_tokens_to_ids("<|end|>"),
    ]
    return model


def language_loss(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy (nats) of ids [N, L + 1]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    vocab = logits.shape[-1]
    return F.cross_entropy(logits.float().view(-1, vocab), ids[:, 1:].reshape(-1))


def save_target(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save model (half precision) and tokenizer as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    half = Qwen3ForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.half().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def load_target(folder: Path) -> Qwen3ForCausalLM:
    """Load a target as fp32, in evaluation mode, frozen."""
    model = Qwen3ForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def bits_per_byte(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    *,
    window: int = 512,
    stride: int = 256,
    batch: int = 8,
) -> float:
    """Bits per byte over whole documents, bos and chat prefix given, windows of ``window`` tokens.

    Consecutive windows overlap by ``window - stride`` tokens, which are context and not scored.
    """
    rows: list[tuple[list[int], int]] = []
    num_bytes = 0
    for document in documents:
        ids = document_ids(tokenizer, document)
        num_bytes += len(document.text.encode())
        answer = 1
        if document.question is not None:
            answer = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
        start = 0
        while True:
            piece = ids[start : start + window]
            scored_from = answer if start == 0 else window - stride
            rows.append((piece, max(scored_from, answer - start)))
            if start + window >= len(ids):
                break
            start += stride
    rows.sort(key=lambda row: len(row[0]))
    total = 0.0
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        longest = max(len(ids) for ids, _ in part)
        padded = torch.zeros(len(part), longest, dtype=torch.long)
        scored = torch.zeros(len(part), longest, dtype=torch.bool)
        for i, (ids, begin) in enumerate(part):
            padded[i, : len(ids)] = torch.tensor(ids)
            scored[i, begin : len(ids)] = True
        logits = model(input_ids=padded[:, :-1], use_cache=False).logits
        losses = F.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none")
        total += float(losses[scored[:, 1:]].sum())
    return total / math.log(2) / num_bytes


def train_target(cfg: TargetSettings) -> Path:
    """Train the target to ``cfg.out``; resumes from ``cfg.work``/target.pt."""
    torch.set_num_threads(cfg.threads)
    tokenizer, streams = prepare_corpus(cfg)
    model = new_target(cfg, tokenizer)
    optimizer = MuonAdamW(
        model.named_parameters(),
        muon_lr=cfg.muon_lr,
        adam_lr=cfg.adam_lr,
        weight_decay=cfg.weight_decay,
    )
    checkpoint = cfg.work / "target.pt"
    done, spent_s = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent_s = state["done"], state["spent_s"]
    bar = tqdm(total=cfg.num_tokens, initial=done, unit="tok", mininterval=5.0)
    began = saved = time.monotonic()
    average = 0.0
    while True:
        elapsed = spent_s + time.monotonic() - began
        progress = done / cfg.num_tokens
        if cfg.deadline_s is not None:
            progress = elapsed / cfg.deadline_s
        if progress >= 1.0:
            break
        length = cfg.long_length if progress >= cfg.long_from else cfg.short_length
        model.set_attn_implementation("eager" if length <= 256 else "sdpa")  # the faster of both
        rng = np.random.default_rng([cfg.seed, done])
        ids = streams.windows(rng, cfg.batch_tokens // length, length + 1, cfg.shares)
        loss = language_loss(model, ids)
        torch.autograd.backward(loss)
        optimizer.step(schedule(progress))
        done += cfg.batch_tokens
        average = loss.item() if average == 0.0 else 0.95 * average + 0.05 * loss.item()
        bar.update(cfg.batch_tokens)
        bar.set_postfix(loss=f"{average:.3f}")
        facts: dict[str, object] = {"tokens": done, "s": round(elapsed, 1), "loss": loss.item()}
        append_facts(cfg.work / "target.log.jsonl", facts)
        if time.monotonic() - saved > cfg.checkpoint_s:
            saved = time.monotonic()
            _save_state(checkpoint, model, optimizer, done, elapsed)
    elapsed = spent_s + time.monotonic() - began
    _save_state(checkpoint, model, optimizer, done, elapsed)
    save_target(cfg.out, model, tokenizer)
    facts = {"tokens": done, "training_s": round(elapsed), "settings": asdict(cfg)}
    (cfg.work / "target.json").write_text(json.dumps(facts, indent=1, default=str))
    return cfg.out


def _save_state(
    path: Path, model: Qwen3ForCausalLM, optimizer: MuonAdamW, done: int, spent_s: float
) -> None:
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "done": done,
            "spent_s": spent_s,
        },
        part,
    )
    part.replace(path)
