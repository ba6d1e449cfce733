"""Judge a pair on held-out text: bits per byte, repetition, accepted length, calibration."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dspark.core.calibration import (
    MODES,
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
from dspark.training.generation import DenseTarget
from dspark.training.prompts import HeldOutPrompt, held_out_prompts, read_prompts, write_prompts
from dspark.training.reliability import Panel, draw_reliability
from dspark.training.repeats import repeated_share
from dspark.training.rollout import Rejection, Rounds, play, roll_out
from dspark.training.target import bits_per_byte, load_target
from dspark.training.tokenizer import load_tokenizer

_TEMPERATURES: dict[float, tuple[Mode, ...]] = {0.0: ("greedy",), 1.0: ("coupled", "rejection")}
"""Modes whose rounds are played on the same text."""


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
    max_q_tokens: int = 64
    """Tokens that a law of rejection sampling is cut to: the drafter pool's setting."""
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
    plot: Path | None = None
    """Picture of the reliability on held-out rounds, before and after; the suffix chooses the
    format."""
    modes: tuple[Mode, ...] = MODES
    max_q_tokens: int = 64
    """Tokens that a law of rejection sampling is cut to: the drafter pool's setting."""
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
    modes: Sequence[Mode],
    max_new: int,
    max_q_tokens: int,
    seed: int,
) -> dict[Mode, list[Rounds]]:
    """Generate for every prompt and walk its rounds, in each of the modes."""
    model = load_target(cfg_target)
    rollouts = roll_out(
        model,
        load_tokenizer(cfg_target),
        prompts,
        target_layer_ids=drafter.config.target_layer_ids,
        temperature=temperature,
        max_new=max_new,
        spare=drafter.config.gamma + 1,
        seed=seed,
    )
    judge = Rejection(target=DenseTarget(model, ()), max_q_tokens=max_q_tokens)
    return {
        mode: [
            play(
                drafter, r, temperature=temperature, max_new=max_new,
                rejection=judge if mode == "rejection" else None,
            )
            for r in rollouts
        ]
        for mode in modes
    }  # fmt: skip


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
        played = {
            mode: rounds
            for temperature, modes in _TEMPERATURES.items()
            for mode, rounds in play_all(
                cfg.target, drafter, prompts, temperature=temperature, modes=modes,
                max_new=cfg.max_new, max_q_tokens=cfg.max_q_tokens, seed=cfg.seed,
            ).items()
        }  # fmt: skip
        for mode, rounds in played.items():
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


def calibrate(cfg: CalibrationSettings) -> dict[Mode, Calibration]:
    """Fit sts.json on held-out rounds, every sampling mode apart.

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
    found: dict[Mode, Calibration] = {}
    panels: list[Panel] = []
    for temperature, together in _TEMPERATURES.items():
        modes = [mode for mode in together if mode in cfg.modes]
        if not modes:
            continue
        for mode, rounds in _held_out_rounds(cfg, drafter, pool, temperature, modes).items():
            fit = _whole_rounds([r for i, r in enumerate(rounds) if i % 4 != 3])
            judge = _whole_rounds([r for i, r in enumerate(rounds) if i % 4 == 3])
            if len(fit[1]) < cfg.num_rounds:
                raise ValueError(
                    f"held-out prompts gave {len(fit[1])} {mode} rounds to fit on, "
                    f"{cfg.num_rounds} are asked for: hold out more documents or lower num_rounds"
                )
            found[mode] = fit_calibration(
                *fit, *judge, mode=mode, dataset="held-out code, prose and arithmetic"
            )
            panels.append(Panel(calibration=found[mode], logits=judge[0], accepted=judge[1]))
    document = json.loads(cfg.out.read_text()) if cfg.out.exists() else {}
    document.update({mode: fitted.to_json() for mode, fitted in found.items()})
    cfg.out.write_text(json.dumps(document, indent=1) + "\n")
    print(cfg.out.read_text())
    if cfg.plot is not None:
        draw_reliability(panels, cfg.plot)
    return found


def _held_out_rounds(
    cfg: CalibrationSettings,
    drafter: DSparkDrafter,
    pool: list[HeldOutPrompt],
    temperature: float,
    modes: Sequence[Mode],
) -> dict[Mode, list[Rounds]]:
    """Play until every mode has enough rounds to fit on and to judge by."""
    rounds: dict[Mode, list[Rounds]] = {mode: [] for mode in modes}
    fewest, at = 0, 0
    while fewest < 1.4 * cfg.num_rounds:
        part = [pool[(at + i) % len(pool)] for i in range(96)]
        if temperature == 0.0:
            part = pool[at : at + 96]  # a prompt has one greedy text only
        if not part:
            break
        played = play_all(
            cfg.target, drafter, part, temperature=temperature, modes=modes,
            max_new=cfg.max_new, max_q_tokens=cfg.max_q_tokens, seed=cfg.seed + at,
        )  # fmt: skip
        at += len(part)
        for mode in modes:
            rounds[mode] += played[mode]
        fewest = min(sum(int((~r.ended).sum()) for r in rounds[mode]) for mode in modes)
        print(f"{', '.join(modes)}: {fewest} rounds of {at} prompts", flush=True)
    return rounds


def cut_prompts(cfg: PromptSettings) -> list[HeldOutPrompt]:
    """Cut the shipped prompts from held-out documents."""
    prompts = held_out_prompts(
        load_tokenizer(cfg.target), read_documents(cfg.held_out), dict(cfg.counts)
    )
    write_prompts(cfg.out, prompts)
    return prompts
