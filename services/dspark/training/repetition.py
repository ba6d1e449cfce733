"""Teach the target not to loop: a short fine-tune against its own repetitions.

Small models that decode greedily fall into loops. Three losses are summed, step by step:
cross-entropy on the corpus as before; on passages made by repeating a span of corpus text, the
probability of each repeated token is pulled to half of what it was one repetition earlier
(pseudo-repetition, Xu et al. 2022); on the model's own greedy continuations, unlikelihood of the
tokens that complete an n-gram already seen (Welleck et al. 2020).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen3ForCausalLM

from dspark.training.generation import DenseTarget, generate, temperature_choice
from dspark.training.journal import append_facts
from dspark.training.optimizer import MuonAdamW, schedule
from dspark.training.prompts import PromptSource
from dspark.training.repeats import completes_repeat
from dspark.training.target import language_loss, load_target, save_target
from dspark.training.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PolishSettings:
    """How to fine-tune against repetition; lengths in tokens."""

    work: Path
    target: Path
    """Folder of the trained target."""
    out: Path
    """Folder that receives the fine-tuned one."""
    deadline_s: float = 360.0
    batch: int = 12
    length: int = 256
    """Windows of corpus text; at least 96, to hold a span and its repetitions."""
    num_generated: int = 48
    """Sequences per generation; they serve ``num_generated / batch`` steps."""
    prompt_length: int = 48
    generated_length: int = 208
    ngram: int = 6
    weight_synthetic: float = 0.5
    weight_unlikely: float = 1.0
    muon_lr: float = 1e-3
    adam_lr: float = 4e-4
    shares: tuple[tuple[str, float], ...] = (("code", 0.62), ("prose", 0.28), ("arithmetic", 0.1))
    own_text: Path | None = None
    """Output of ``make_selftext``; then half of the cross-entropy is on it."""
    blend: float = 0.6
    """Share of the fine-tuned weights in the result; the rest is those of ``blend_with``."""
    blend_with: Path | None = None
    """None means the weights that the fine-tune began with."""
    rescale: bool = True
    """Whether the logits get back, by one factor, the sharpness that the fine-tune took."""
    sharpen: float = 1.0
    """Factor on the logits beyond the likeliest one: T = 1 then means T = 1 / sharpen."""
    seed: int = 11
    threads: int = 2


def synthetic_repeats(ids: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Overwrite the tails of ids [S, L] by repetitions of a span that ends inside each row.

    Returns:
        The new ids [S, L] and each row's period at every repeated position, 0 elsewhere [S, L].
    """
    out, period = ids.clone(), torch.zeros_like(ids)
    length = ids.shape[1]
    for row in range(ids.shape[0]):
        span = int(rng.integers(4, 48))
        begin = int(rng.integers(8, length // 2 - span // 2))
        tail = torch.arange(begin + span, length)
        out[row, tail] = ids[row, begin + (tail - begin) % span]
        period[row, tail] = span
    return out, period


def _token_probabilities(model: Qwen3ForCausalLM, ids: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    logp = torch.log_softmax(logits.float(), -1)
    return logp.gather(-1, ids[:, 1:, None]).squeeze(-1).exp()


def synthetic_loss(model: Qwen3ForCausalLM, ids: Tensor, period: Tensor) -> Tensor:
    """Pull repeated tokens' probabilities to half of those one repetition earlier."""
    p = _token_probabilities(model, ids)
    span = period[:, 1:]
    at = torch.arange(p.shape[1])[None, :] - span
    before = p.detach().gather(1, at.clamp(min=0))
    loss = -torch.log((1.0 - (p - 0.5 * before).abs()).clamp(min=1e-4))
    return loss[span > 0].mean()


def unlikely_loss(model: Qwen3ForCausalLM, ids: Tensor, marks: Tensor) -> Tensor:
    """Unlikelihood of the marked tokens, averaged over the rows' generated tokens."""
    p = _token_probabilities(model, ids)
    loss = -torch.log((1.0 - p).clamp(min=1e-4))
    return (loss * marks[:, 1:]).sum() / max(int(marks.sum()), ids.shape[0])


def polish_target(cfg: PolishSettings) -> Path:
    """Fine-tune the target at ``cfg.target`` to ``cfg.out``."""
    torch.set_num_threads(cfg.threads)
    tokenizer = load_tokenizer(cfg.target)
    source = PromptSource(cfg.work / "corpus", tokenizer)
    model = load_target(cfg.target).requires_grad_(True)
    model.set_attn_implementation("eager")
    optimizer = MuonAdamW(model.named_parameters(), muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    began = time.monotonic()
    step = 0
    bar = tqdm(total=round(cfg.deadline_s), unit="s", mininterval=5.0)
    ids, marks = torch.zeros(0), torch.zeros(0)
    shares = dict(cfg.shares)
    own = None if cfg.own_text is None else np.load(cfg.own_text)
    while (elapsed := time.monotonic() - began) < cfg.deadline_s:
        rng = np.random.default_rng([cfg.seed, step])
        part = step % (cfg.num_generated // cfg.batch)
        if part == 0:
            prompts = source.prefixes(rng, cfg.num_generated, cfg.prompt_length, shares)
            runner = DenseTarget(model.eval(), (0,), torch.bfloat16)
            ids = generate(runner, prompts, cfg.generated_length, temperature_choice(0.0, 0)).ids
            marks = torch.from_numpy(completes_repeat(ids.numpy(), cfg.ngram))
            marks[:, : cfg.prompt_length] = False
            repeats = float(marks[:, cfg.prompt_length :].float().mean())
            model.train()
        window = source.streams.windows(rng, cfg.batch, cfg.length + 1, shares)
        if own is not None:
            half = cfg.batch // 2
            picked = own[rng.choice(len(own), size=half)][:, : cfg.length + 1]
            window[:half] = torch.from_numpy(picked.astype(np.int64))
        plain = language_loss(model, window)
        torch.autograd.backward(plain)
        synthetic = torch.zeros(())
        if cfg.weight_synthetic > 0:
            fake, period = synthetic_repeats(window[: cfg.batch // 2], rng)
            synthetic = cfg.weight_synthetic * synthetic_loss(model, fake, period)
            torch.autograd.backward(synthetic)
        rows = slice(part * cfg.batch, (part + 1) * cfg.batch)
        unlikely = cfg.weight_unlikely * unlikely_loss(model, ids[rows], marks[rows])
        torch.autograd.backward(unlikely)
        optimizer.step(schedule(elapsed / cfg.deadline_s, decay_from=0.5))
        facts = {
            "step": step,
            "s": round(elapsed, 1),
            "loss": round(plain.item(), 4),
            "synthetic": round(synthetic.item(), 4),
            "unlikely": round(unlikely.item(), 4),
            "repeats": round(repeats, 4),
        }
        append_facts(cfg.work / "polish.log.jsonl", facts)
        bar.set_postfix(loss=f"{plain.item():.3f}", repeats=f"{repeats:.3f}")
        bar.update(round(time.monotonic() - began) - bar.n)
        step += 1
    blend_targets(cfg.blend_with or cfg.target, model, cfg.blend)
    if cfg.rescale:
        rng = np.random.default_rng(cfg.seed)
        windows = source.streams.windows(rng, 64, cfg.length + 1, shares)
        scale = cfg.sharpen * rescale_logits(model.eval(), windows)
        with torch.no_grad():
            model.model.norm.weight.mul_(cfg.sharpen)
        append_facts(cfg.work / "polish.log.jsonl", {"logit_scale": scale})
    save_target(cfg.out, model.eval(), tokenizer)
    return cfg.out


@torch.no_grad()
def blend_targets(start: Path, tuned: Qwen3ForCausalLM, share: float) -> None:
    """Move ``tuned`` back towards ``start``: start + share * (tuned - start), in place.

    The fine-tune overshoots; on this line bits per byte and repetition trade off smoothly
    (weight-space ensembling, Wortsman et al. 2022), so the share is chosen on held-out text.
    """
    begun = dict(load_target(start).named_parameters())  # tied weights come once
    for name, parameter in tuned.named_parameters():
        parameter.copy_(begun[name] + share * (parameter - begun[name]))


@torch.no_grad()
def rescale_logits(model: Qwen3ForCausalLM, windows: Tensor) -> float:
    """Undo the flattening that unlikelihood leaves: a factor on the logits, by likelihood.

    The factor goes into the final norm's weight, so greedy output does not change.

    Args:
        model: The target; changed in place.
        windows: Training text [N, L + 1].

    Returns:
        The factor, out of 0.90, 0.92 .. 1.30.
    """
    factors = np.round(np.arange(0.90, 1.301, 0.02), 2)
    losses = np.zeros(len(factors))
    for ids in torch.split(windows, 8):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden).flatten(0, 1)
        for at, factor in enumerate(factors):
            losses[at] += float(F.cross_entropy(logits * float(factor), ids[:, 1:].reshape(-1)))
    best = float(factors[losses.argmin()])
    model.model.norm.weight.mul_(best)
    return best
