"""Train the drafter on the frozen target's features, with many anchors per sequence."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dspark.model.checkpoint import load_drafter, save_drafter
from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_config import DrafterConfig, HeadType
from dspark.training.blocks import (
    DraftLoss,
    block_hidden,
    confidence_loss,
    teacher_forced_logits,
)
from dspark.training.features import FeatureSet
from dspark.training.journal import append_facts
from dspark.training.optimizer import MuonAdamW, schedule
from dspark.training.target import load_target
from dspark.training.tokenizer import MASK, load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterSettings:
    """How to train the drafter."""

    work: Path
    """Folder of the checkpoint and the log."""
    target: Path
    features: Path
    """Folder that ``make_features`` filled."""
    out: Path
    target_layer_ids: tuple[int, ...] = (1, 3, 4)
    """The layers whose features were made."""
    gamma: int = 7
    num_layers: int = 2
    markov_rank: int = 128
    markov_head_type: HeadType = "vanilla"
    warm_start: Path | None = None
    """Drafter folder to begin from, such as one of an earlier version of the target."""
    num_steps: int = 6000
    batch: int = 8
    """Sequences per step."""
    num_anchors: int = 32
    """Blocks per sequence."""
    first_anchor: int = 12
    decay: float = 4.0
    """Weight of position k is exp(-(k - 1) / decay)."""
    ce_share: float = 0.1
    muon_lr: float = 6e-3
    adam_lr: float = 3e-3
    seed: int = 5
    threads: int = 1
    checkpoint_s: float = 120.0
    deadline_s: float | None = None
    """Wall-clock limit; the schedule then follows time instead of steps."""


def new_drafter(cfg: DrafterSettings) -> tuple[DSparkDrafter, dict[str, object]]:
    """Create a drafter for the target of ``cfg``, with the target's embedding and lm_head frozen.

    Returns:
        The drafter and the target's config.json.
    """
    raw = json.loads((cfg.target / "config.json").read_text())
    target = load_target(cfg.target)
    tokenizer = load_tokenizer(cfg.target)
    config = DrafterConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_heads=raw["num_attention_heads"],
        num_kv_heads=raw["num_key_value_heads"],
        head_dim=raw["head_dim"],
        num_layers=cfg.num_layers,
        num_target_layers=raw["num_hidden_layers"],
        target_layer_ids=cfg.target_layer_ids,
        gamma=cfg.gamma,
        mask_token_id=tokenizer.convert_tokens_to_ids(MASK),
        markov_rank=cfg.markov_rank,
        markov_head_type=cfg.markov_head_type if cfg.markov_rank else "none",
        rms_norm_eps=raw["rms_norm_eps"],
        rope_theta=raw["rope_parameters"]["rope_theta"],
        max_positions=raw["max_position_embeddings"],
        num_anchors=cfg.num_anchors,
    )
    torch.manual_seed(cfg.seed)
    drafter = DSparkDrafter(config)
    for name, parameter in drafter.named_parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
        if name.endswith(("o_proj.weight", "down_proj.weight", "markov_w2.weight")):
            torch.nn.init.zeros_(parameter)
    if cfg.warm_start is not None:
        drafter.load_state_dict(load_drafter(cfg.warm_start).state_dict())
    embedding = target.model.embed_tokens.weight.detach()
    with torch.no_grad():
        drafter.embed_tokens.weight.copy_(embedding)
        drafter.lm_head.weight.copy_(target.lm_head.weight)
        if cfg.warm_start is None:
            drafter.norm.weight.copy_(target.model.norm.weight)
    drafter.embed_tokens.requires_grad_(False)
    drafter.lm_head.requires_grad_(False)
    return drafter, raw


def draft_loss(
    drafter: DSparkDrafter,
    ids: Tensor,
    features: Tensor,
    hidden: Tensor,
    anchors: Tensor,
    position_weights: Tensor,
    ce_share: float,
) -> tuple[Tensor, Tensor]:
    """Compute the loss of all blocks (paper, section 3.1; weights over gamma sum to one).

    Args:
        drafter: The drafter.
        ids: Tokens [S, L].
        features: Raw features [S, L, m * D].
        hidden: The target's last hidden states [S, L, D].
        anchors: Anchor positions [S, A], at most L - 1 - gamma.
        position_weights: [G].
        ce_share: Share of the cross-entropy.

    Returns:
        The loss, and the mean acceptance 1 - TV per position [G].
    """
    gamma = drafter.config.gamma
    where = anchors[..., None] + torch.arange(gamma)
    sequence = torch.arange(ids.shape[0])[:, None, None]
    previous, labels = ids[sequence, where], ids[sequence, where + 1]
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            target_logits = F.linear(hidden, drafter.lm_head.weight)[sequence, where]
            target_p = torch.softmax(target_logits.float().flatten(0, 2), -1)
        h = block_hidden(drafter, features, anchors, previous[..., 0])
        logits, confidence = teacher_forced_logits(drafter, h, previous)
    weights = (position_weights / anchors.numel()).expand(where.shape).reshape(-1)
    loss, acceptance = DraftLoss.apply(  # type: ignore[no-untyped-call]  # torch leaves it bare
        logits.flatten(0, 2), target_p, labels.reshape(-1), weights, ce_share
    )
    if confidence is not None:
        loss = loss + confidence_loss(confidence.reshape(-1), acceptance, weights)
    return loss, acceptance.view(-1, gamma).mean(0)


def train_drafter(cfg: DrafterSettings) -> Path:
    """Train the drafter to ``cfg.out``; resumes from ``cfg.work``/drafter.pt."""
    torch.set_num_threads(cfg.threads)
    cfg.work.mkdir(parents=True, exist_ok=True)
    drafter, raw = new_drafter(cfg)
    optimizer = MuonAdamW(
        drafter.named_parameters(), muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr, weight_decay=0.02
    )
    checkpoint = cfg.work / "drafter.pt"
    step, spent_s = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        drafter.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = state["step"], state["spent_s"]
    batches = FeatureSet(cfg.features, drafter.config.hidden_size).epochs(cfg.seed, cfg.batch, step)
    decays = torch.tensor([math.exp(-k / cfg.decay) for k in range(cfg.gamma)])
    decays = decays / decays.sum()
    bar = tqdm(total=cfg.num_steps, initial=step, unit="step", mininterval=5.0)
    began = saved = time.monotonic()
    average = torch.zeros(cfg.gamma)
    while True:
        elapsed = spent_s + time.monotonic() - began
        progress = step / cfg.num_steps
        if cfg.deadline_s is not None:
            progress = max(elapsed / cfg.deadline_s, progress)
        if progress >= 1.0:
            break
        ids, features, hidden = next(batches)
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        last = ids.shape[1] - 1 - cfg.gamma
        shape = (cfg.batch, cfg.num_anchors)
        anchors = torch.randint(cfg.first_anchor, last + 1, shape, generator=generator)
        loss, acceptance = draft_loss(drafter, ids, features, hidden, anchors, decays, cfg.ce_share)
        torch.autograd.backward(loss)
        optimizer.step(schedule(progress))
        step += 1
        average = acceptance if step == 1 else 0.98 * average + 0.02 * acceptance
        bar.update(1)
        if step % 20 == 0:
            tau = 1.0 + float(average.cumprod(0).sum())
            bar.set_postfix(loss=f"{loss.item():.3f}", tau=f"{tau:.2f}")
            facts = {
                "step": step,
                "s": round(elapsed, 1),
                "loss": round(loss.item(), 4),
                "acceptance": [round(a, 3) for a in average.tolist()],
            }
            append_facts(cfg.work / "drafter.log.jsonl", facts)
        if time.monotonic() - saved > cfg.checkpoint_s:
            saved = time.monotonic()
            _save(cfg, drafter, optimizer, step, elapsed, raw)
    elapsed = spent_s + time.monotonic() - began
    _save(cfg, drafter, optimizer, step, elapsed, raw)
    (cfg.work / "drafter.json").write_text(
        json.dumps({"steps": step, "training_s": round(elapsed)}, indent=1)
    )
    return cfg.out


def _save(
    cfg: DrafterSettings,
    drafter: DSparkDrafter,
    optimizer: MuonAdamW,
    step: int,
    spent_s: float,
    target_config: Mapping[str, object],
) -> None:
    state = {
        "model": drafter.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "spent_s": spent_s,
    }
    part = cfg.work / "drafter.part"
    torch.save(state, part)
    part.replace(cfg.work / "drafter.pt")
    save_drafter(cfg.out, drafter, target_config)
