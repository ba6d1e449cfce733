"""Model cards of the pair, written from the JSON files that the stages left behind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dspark.training.corpus import DOMAINS

Facts = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSettings:
    """Where the facts are."""

    demo: Path
    """Folder with target/, drafter/ and prompts.jsonl; each model folder holds its eval.json."""
    provenance: Path
    """JSON: commands, corpus counts, training times, ablation."""


def _facts(value: object) -> Facts:
    return cast(Facts, value)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _percent(value: object) -> str:
    return f"{100 * float(cast(float, value)):.1f} %"


def target_card(figures: Facts, provenance: Facts) -> str:
    """Write the target's card."""
    bits, repeats = _facts(figures["bits_per_byte"]), _facts(figures["repeated_8grams"])
    corpus = _facts(provenance["corpus"])
    rows = [
        [
            domain,
            *(str(_facts(corpus[side])[domain]) for side in ("train_documents", "train_tokens")),
            str(_facts(corpus["held_out_documents"])[domain]),
            f"{bits[domain]}",
            _percent(repeats[domain]),
        ]
        for domain in DOMAINS
    ]
    header = [
        "domain",
        "documents",
        "tokens",
        "held-out documents",
        "bits/byte",
        "repeated 8-grams",
    ]
    return f"""# Demo target

A small `Qwen3ForCausalLM` (5.8 M parameters: hidden 256, 6 layers, 4 query and 2 key/value heads of
64, tied embedding, byte-level BPE of 4096) that makes the system run on any machine. It continues
Python code, reference prose and worked arithmetic, and answers short questions about them in chat
form. It knows little and is often wrong: it exists to be served.

## Data
{provenance["data"]}

{_table(header, rows)}

Bits/byte: over whole held-out documents, windows of 512 tokens that overlap by 256. Repeated
8-grams: mean share of the 8-grams of a greedy continuation of 128 tokens (fewer where it stops)
that occurred before in it, over the held-out prompts; all three domains together
{_percent(repeats["all"])}.

## Training
{provenance["target_training"]}

## Commands
```
{provenance["target_commands"]}
```
Figures: `eval.json` beside this file.
"""


def drafter_card(figures: Facts, sts: Facts, provenance: Facts) -> str:
    """Write the drafter's card."""
    sections = []
    titles = {
        "greedy": "T = 0 (greedy)",
        "coupled": "T = 1 (coupled)",
        "rejection": "T = 1 (rejection)",
    }
    modes = [mode for mode in titles if mode in figures and mode in sts]
    for mode in modes:
        found = _facts(figures[mode])
        rows = []
        for domain in (*DOMAINS, "all"):
            one = _facts(found[domain])
            conditional = [f"{a:.2f}" for a in cast(list[float], one["conditional_acceptance"])]
            rows.append(
                [
                    domain,
                    f"{one['num_prompts']}",
                    f"{one['mean_new_tokens']}",
                    f"**{one['tau']:.2f}**",
                    *conditional,
                ]
            )
        header = ["domain", "prompts", "tokens", "tau", *(f"x{k}" for k in range(1, 8))]
        sections.append(f"### {titles[mode]}\n\n{_table(header, rows)}")
    ece_rows = []
    for mode in modes:
        fitted, shipped = _facts(sts[mode]), _facts(_facts(figures[mode])["ece"])
        ece_rows.append(
            [
                mode,
                f"{fitted['num_samples']}",
                _percent(fitted["ece_before"]),
                _percent(fitted["ece_after"])
                if fitted.get("adopted", True)
                else f"not adopted: the fit gives {_percent(fitted['ece_fitted'])}",
                _percent(shipped["before"]),
                _percent(shipped.get("after", shipped["before"])),
            ]
        )
    blank_line = "\n\n"
    ece_header = ["mode", "rounds fitted", "before", "after", "shipped prompts, before", "after"]
    return f"""# Demo drafter

A `Qwen3DSparkModel` in the DeepSpec layout for the demo target: gamma 7, anchor first,
{provenance["drafter_shape"]}

## Accepted length
tau = tokens committed per round (accepted drafts + 1), every draft verified; x1..x7 = acceptance of
a position given that all before it were accepted. Held-out prompts (`../prompts.jsonl`), up to
{provenance["max_new"]} new tokens, stopping at a stop token.

{blank_line.join(sections)}

## Calibration
Sequential temperature scaling (`sts.json`), every sampling mode apart, fitted on rounds of held-out
documents' prompts that are not shipped, and adopted where it lowers the error. Expected calibration
error of the survival (15 bins), mean over the seven positions, on rounds not fitted on:

{_table(ece_header, ece_rows)}

## Choices and ablation
{provenance["ablation"]}

## Training
{provenance["drafter_training"]}

## Commands
```
{provenance["drafter_commands"]}
```
Figures: `eval.json`, `ablation.json` and `sts.json` beside this file.
"""


def write_cards(cfg: CardSettings) -> None:
    """Write README.md into both model folders."""
    provenance = _facts(json.loads(cfg.provenance.read_text()))
    target, drafter = cfg.demo / "target", cfg.demo / "drafter"
    figures = _facts(json.loads((target / "eval.json").read_text()))
    (target / "README.md").write_text(target_card(figures, provenance))
    figures = _facts(json.loads((drafter / "eval.json").read_text()))
    sts = _facts(json.loads((drafter / "sts.json").read_text()))
    (drafter / "README.md").write_text(drafter_card(figures, sts, provenance))
