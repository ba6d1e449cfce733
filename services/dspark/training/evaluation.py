"""Judge a pair on held-out text: bits per byte, repetition, accepted length, calibration."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dspark.core.calibration import (
    Calibration,
    Floats,
    Mode,
    parse_calibration,
    survival_errors,
)
from dspark.core.calibration import (
    calibrate as fit_calibration,
)
from dspark.model.checkpoint import load_drafter
from dspark.model.drafter import DSparkDrafter
from dspark.training.corpus import DOMAINS, read_documents
from dspark.training.prompts import HeldOutPrompt, held_out_prompts, read_prompts, write_prompts
from dspark.training.repeats import repeated_share
from dspark.training.rollout import Rounds, play, roll_out
from dspark.training.target import bits_per_byte, load_target
from dspark.training.tokenizer import load_tokenizer

_MODES: tuple[tuple[Mode, float], ...] = (("greedy", 0.0), ("coupled", 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What to judge."""

    target: Path
    drafter: Path | None = None
    """None judges the target alone."""
    prompts: Path
    held_out: Path | None = None
    """Held-out documents for bits per byte; None leaves that out."""
    out: Path
    """JSON file that receives the figures."""
    max_new: int = 160
    seed: int = 1000
    max_prompts: int | None = None
    """Judge by the first so many prompts of each domain."""
    max_documents: int | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """What to calibrate on; prompts are cut from held-out documents, none of them shipped."""

    target: Path
    drafter: Path
    held_out: Path
    prompts: Path
    """The shipped prompts, which are left out."""
    out: Path
    """The sts.json to write; a mode that is not fitted now is kept as it is there."""
    modes: tuple[Mode, ...] = ("greedy", "coupled")
    num_rounds: int = 10_000
    """Least number of rounds to fit on, per mode; a third as many again judge the fit."""
    max_new: int = 160
    seed: int = 500_000
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """Which held-out prompts to ship."""

    target: Path
    held_out: Path
    out: Path
    counts: tuple[tuple[str, int], ...] = (("code", 120), ("prose", 90), ("arithmetic", 70))


def acceptance_figures(rounds: Sequence[Rounds], gamma: int) -> dict[str, object]:
    """Summarise rounds: tau, conditional acceptance per position, repeated 8-grams.

    Position k counts a round only if positions 1..k-1 were accepted and no stop token came first.
    """
    accepted = np.concatenate([r.accepted for r in rounds])
    ended = np.concatenate([r.ended for r in rounds])
    committed = np.concatenate([r.committed for r in rounds])
    conditional = []
    for k in range(gamma):
        reached = (accepted > k) | ((accepted == k) & ~ended)
        conditional.append(round(float((accepted > k).sum() / max(reached.sum(), 1)), 4))
    new = [len(r.output) for r in rounds]
    repeated = [repeated_share(r.output[:128]) for r in rounds]
    return {
        "num_prompts": len(rounds),
        "num_rounds": len(accepted),
        "tau": round(float(committed.mean()), 4),
        "conditional_acceptance": conditional,
        "mean_new_tokens": round(float(np.mean(new)), 1),
        "repeated_8grams": round(float(np.mean(repeated)), 4),
    }


def play_all(
    cfg_target: Path,
    drafter: DSparkDrafter,
    prompts: list[HeldOutPrompt],
    *,
    temperature: float,
    max_new: int,
    seed: int,
) -> list[Rounds]:
    """Generate for every prompt and walk its rounds."""
    rollouts = roll_out(
        load_target(cfg_target),
        load_tokenizer(cfg_target),
        prompts,
        target_layer_ids=drafter.config.target_layer_ids,
        temperature=temperature,
        max_new=max_new,
        spare=drafter.config.gamma + 1,
        seed=seed,
    )
    return [play(drafter, r, temperature=temperature, max_new=max_new) for r in rollouts]


def evaluate(cfg: EvaluationSettings) -> dict[str, object]:
    """Judge a pair and write the figures to ``cfg.out``; with no drafter, the target alone."""
    torch.set_num_threads(cfg.threads)
    began = time.monotonic()
    figures: dict[str, object] = {}
    model, tokenizer = load_target(cfg.target), load_tokenizer(cfg.target)
    if cfg.held_out is not None:
        documents = read_documents(cfg.held_out)
        figures["bits_per_byte"] = {
            domain: round(
                bits_per_byte(
                    model,
                    tokenizer,
                    [d for d in documents if d.domain == domain][: cfg.max_documents],
                ),
                4,
            )
            for domain in DOMAINS
        }
    prompts = [
        prompt
        for domain in DOMAINS
        for prompt in [p for p in read_prompts(cfg.prompts) if p.domain == domain][
            : cfg.max_prompts
        ]
    ]
    if cfg.drafter is None:
        rollouts = roll_out(
            model, tokenizer, prompts, target_layer_ids=(0,), temperature=0.0, max_new=128,
            spare=0, seed=cfg.seed,
        )  # fmt: skip
        shares: dict[str, float] = {}
        for domain in DOMAINS:
            found = [
                repeated_share(r.ids[r.prompt_length : r.stop].tolist())
                for r in rollouts
                if r.domain == domain
            ]
            shares[domain] = round(float(np.mean(found)), 4)
        shares["all"] = round(float(np.mean(list(shares.values()))), 4)
        figures["repeated_8grams"] = shares
    else:
        drafter = load_drafter(cfg.drafter)
        gamma = drafter.config.gamma
        sts = cfg.drafter / "sts.json"
        stored = json.loads(sts.read_text()) if sts.exists() else {}
        for mode, temperature in _MODES:
            rounds = play_all(
                cfg.target, drafter, prompts, temperature=temperature, max_new=cfg.max_new,
                seed=cfg.seed,
            )  # fmt: skip
            per_domain: dict[str, object] = {
                domain: acceptance_figures([r for r in rounds if r.domain == domain], gamma)
                for domain in DOMAINS
            }
            per_domain["all"] = acceptance_figures(rounds, gamma)
            if drafter.config.enable_confidence_head:
                fitted = parse_calibration(stored[mode], gamma) if mode in stored else None
                per_domain["ece"] = _ece(rounds, gamma, fitted)
            figures[mode] = per_domain
    figures["evaluation_s"] = round(time.monotonic() - began)
    cfg.out.parent.mkdir(parents=True, exist_ok=True)
    cfg.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))
    return figures


def _ece(rounds: Sequence[Rounds], gamma: int, fitted: Calibration | None) -> dict[str, object]:
    logits, accepted = _whole_rounds(rounds)
    before = survival_errors(logits, accepted, np.ones(gamma))
    found: dict[str, object] = {
        "num_rounds": len(accepted),
        "before": round(float(before.mean()), 4),
        "before_per_position": [round(float(e), 4) for e in before],
    }
    if fitted is not None:
        after = survival_errors(logits, accepted, np.array(fitted.temperatures))
        found["after"] = round(float(after.mean()), 4)
        found["after_per_position"] = [round(float(e), 4) for e in after]
    return found


def _whole_rounds(rounds: Sequence[Rounds]) -> tuple[Floats, np.ndarray]:
    """Stack logits and accepted lengths of the rounds that no stop token cut."""
    logits = np.concatenate([r.logits[~r.ended] for r in rounds])
    accepted = np.concatenate([r.accepted[~r.ended] for r in rounds])
    return logits, accepted


def calibrate(cfg: CalibrationSettings) -> dict[str, Calibration]:
    """Fit sts.json on held-out rounds, greedy and coupled apart.

    Prompts alternate between fitting and judging, three to one, so both see every domain.

    Raises:
        ValueError: If the held-out documents yield too few greedy rounds.
    """
    torch.set_num_threads(cfg.threads)
    drafter = load_drafter(cfg.drafter)
    tokenizer = load_tokenizer(cfg.target)
    shipped = {p.prompt[:40] for p in read_prompts(cfg.prompts)}
    pool = [
        p
        for p in held_out_prompts(
            tokenizer,
            read_documents(cfg.held_out),
            dict.fromkeys(DOMAINS, 2000),
            seed=17,
        )
        if p.prompt[:40] not in shipped
    ]
    pool = [pool[i] for i in np.random.default_rng(cfg.seed).permutation(len(pool))]
    found: dict[str, Calibration] = {}
    for mode, temperature in _MODES:
        if mode not in cfg.modes:
            continue
        rounds: list[Rounds] = []
        num_rounds, at = 0, 0
        while num_rounds < 1.4 * cfg.num_rounds:
            part = [pool[(at + i) % len(pool)] for i in range(96)]
            if mode == "greedy":
                part = pool[at : at + 96]  # a prompt has one greedy text only
            if not part:
                break
            rounds += play_all(
                cfg.target, drafter, part, temperature=temperature, max_new=cfg.max_new,
                seed=cfg.seed + at,
            )  # fmt: skip
            at += len(part)
            num_rounds = sum(int((~r.ended).sum()) for r in rounds)
            print(f"{mode}: {num_rounds} rounds of {at} prompts", flush=True)
        fit = _whole_rounds([r for i, r in enumerate(rounds) if i % 4 != 3])
        judge = _whole_rounds([r for i, r in enumerate(rounds) if i % 4 == 3])
        if len(fit[1]) < cfg.num_rounds:
            raise ValueError(
                f"held-out prompts gave {len(fit[1])} {mode} rounds to fit on, {cfg.num_rounds} "
                "are asked for: hold out more documents or lower num_rounds"
            )
        found[mode] = fit_calibration(
            *fit, *judge, mode=mode, dataset="held-out code, prose and arithmetic"
        )
    document = json.loads(cfg.out.read_text()) if cfg.out.exists() else {}
    document.update({mode: fitted.to_json() for mode, fitted in found.items()})
    cfg.out.write_text(json.dumps(document, indent=1) + "\n")
    print(cfg.out.read_text())
    return found


def cut_prompts(cfg: PromptSettings) -> list[HeldOutPrompt]:
    """Cut the shipped prompts from held-out documents."""
    prompts = held_out_prompts(
        load_tokenizer(cfg.target), read_documents(cfg.held_out), dict(cfg.counts)
    )
    write_prompts(cfg.out, prompts)
    return prompts
