"""Measure both lossless modes of a pair: accepted length, bytes of a draft, and speed.

Rounds are played on shipped prompts with the serving path's own target and drafter, one session at
a time and every draft verified.  Bytes are those of the reply that carries a block.
"""

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from dspark.core.draft import DraftBlock, DraftRequest, DraftStatus, RoundReply
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.core.logits import LogitsProcessor
from dspark.core.sampling import Sampling, SamplingMode
from dspark.core.verdict import judge, settle
from dspark.model.batch import RaggedBatch, Segment
from dspark.model.drafter_runner import BlockDrafter
from dspark.model.pair import load_drafter_side, load_target
from dspark.model.ragged_target import judge_rows
from dspark.model.target import TargetRunner
from dspark.training.prompts import read_prompts
from dspark.training.tokenizer import load_tokenizer
from dspark.wire.draft import reply_to_wire


@dataclass(frozen=True, slots=True, kw_only=True)
class ModesSettings:
    """What is measured.

    Attributes:
        target: Target folder.
        drafter: Drafter folder.
        prompts: Prompts file.
        out: Where the figures go, as JSON; the table goes to standard output.
        max_prompts: Prompts played in each cell.
        max_new: Tokens generated for each.
        temperatures: Temperatures measured.
        q_tokens: Sizes of a law in rejection mode; 0 for the whole vocabulary.
        seed: Prompt i uses seed + i.
        threads: CPU threads.
    """

    target: Path
    drafter: Path
    prompts: Path
    out: Path
    max_prompts: int = 24
    max_new: int = 96
    temperatures: tuple[float, ...] = (0.6, 0.8, 1.0)
    q_tokens: tuple[int, ...] = (16, 64, 256, 0)
    seed: int = 1
    threads: int = 1


_LIMITS: tuple[dict[str, float], ...] = ({}, {"top_p": 0.95}, {"top_k": 20})
_PAGE_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One target pass of one session."""

    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    choose: int
    sampling: Sampling
    laws: DraftLaws | None = None
    processor: LogitsProcessor | None = None


@dataclass(slots=True)
class _Sums:
    rounds: int = 0
    tokens: int = 0
    draft_bytes: int = 0
    seconds: float = 0.0
    drafting_s: float = 0.0


def measure_modes(cfg: ModesSettings) -> list[dict[str, object]]:
    """Measure every cell, write them as JSON and print them as a Markdown table."""
    torch.set_num_threads(cfg.threads)
    tokenizer = load_tokenizer(cfg.target)
    found = read_prompts(cfg.prompts)  # by domain: an even choice sees them all
    found = found[:: max(1, len(found) // cfg.max_prompts)][: cfg.max_prompts]
    prompts = [tokenizer.encode(prompt.prompt) for prompt in found]
    longest = max(map(len, prompts)) + cfg.max_new + 64
    _, target = load_target(
        cfg.target, cfg.drafter, num_pages=-(-longest // _PAGE_TOKENS), page_tokens=_PAGE_TOKENS
    )
    variants = [(SamplingMode.COUPLED, 0)]
    variants += [(SamplingMode.REJECTION, size) for size in cfg.q_tokens]
    drafters = {
        size: load_drafter_side(cfg.target, cfg.drafter, max_q_tokens=size or 1 << 30)[1]
        for size in {0, *cfg.q_tokens}
    }
    cells: list[dict[str, object]] = []
    for temperature, limits in itertools.product(cfg.temperatures, _LIMITS):
        for mode, size in variants:
            sums = _Sums()
            for index, prompt in enumerate(prompts):
                sampling = Sampling(
                    temperature=temperature,
                    seed=cfg.seed + index,
                    mode=mode,
                    top_k=int(limits.get("top_k", 0)),
                    top_p=limits.get("top_p", 1.0),
                )
                _play(target, drafters[size], prompt, sampling, cfg.max_new, sums)
            cells.append(
                {
                    "temperature": temperature,
                    "limits": limits,
                    "mode": mode.value,
                    "q_tokens": size if mode is SamplingMode.REJECTION else None,
                    "rounds": sums.rounds,
                    "tau": round(sums.tokens / sums.rounds, 3),
                    "draft_bytes": round(sums.draft_bytes / sums.rounds),
                    "tokens_per_s": round(sums.tokens / sums.seconds, 1),
                    "draft_ms": round(1e3 * sums.drafting_s / sums.rounds, 2),
                }
            )
            print(json.dumps(cells[-1]), flush=True)
    cfg.out.write_text(json.dumps(cells, indent=1) + "\n")
    print(table(cells))
    return cells


def table(cells: list[dict[str, object]]) -> str:
    """The cells as a Markdown table."""
    names = ["temperature", "limits", "mode", "q_tokens", "tau", "draft_bytes", "draft_ms",
             "tokens_per_s", "rounds"]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for cell in cells:
        shown = dict(cell)
        limits = cell["limits"]
        assert isinstance(limits, dict)
        shown["limits"] = ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "none"
        if cell["q_tokens"] is None:
            shown["q_tokens"] = ""
        elif cell["q_tokens"] == 0:
            shown["q_tokens"] = "all"
        lines.append("| " + " | ".join(str(shown[name]) for name in names) + " |")
    return "\n".join(lines)


def _play(
    target: TargetRunner,
    drafter: BlockDrafter,
    prompt: list[int],
    sampling: Sampling,
    max_new: int,
    sums: _Sums,
) -> None:
    """Generate on one prompt and add up its rounds."""
    pages = tuple(range(target.pool.num_pages))

    def step(segment: _Step) -> tuple[int, ...]:
        first = len(segment.tokens) - segment.choose
        output = target.forward(
            RaggedBatch(
                segments=[
                    Segment(
                        token_ids=segment.tokens,
                        start=segment.start,
                        block_table=pages,
                        logits_from=first,
                    )
                ]
            )
        )
        return judge_rows(output.logits, [segment])[0]

    tokens = [
        *prompt,
        *step(_Step(tokens=tuple(prompt), start=0, pages=pages, choose=1, sampling=sampling)),
    ]
    drafter.open("modes", sampling)
    end = len(prompt) + max_new
    began_s = time.perf_counter()
    while len(tokens) < end:
        base = len(tokens) - 1
        cached = drafter.cached("modes") or 0
        drafter.append("modes", cached, target.rows(pages, cached, base))
        drafting_s = time.perf_counter()
        request = DraftRequest(
            key="modes", anchor=tokens[-1], base_length=base, max_tokens=drafter.gamma
        )
        proposal = drafter.draft([request])[0]
        sums.drafting_s += time.perf_counter() - drafting_s
        chosen = step(
            _Step(
                tokens=(tokens[-1], *proposal.tokens), start=base, pages=pages,
                choose=1 + len(proposal.tokens), sampling=sampling, laws=proposal.laws,
            )
        )  # fmt: skip
        if proposal.laws is None:
            verdict = judge(proposal.tokens, chosen, stop_tokens=(), remaining=len(chosen))
        else:
            verdict = settle(chosen, stop_tokens=(), remaining=len(chosen))
        tokens.extend(verdict.committed)
        block = DraftBlock(
            session=SessionId(1), base_length=base, status=DraftStatus.OK,
            tokens=proposal.tokens, confidences=proposal.confidences, laws=proposal.laws,
        )  # fmt: skip
        reply = RoundReply(number=1, incarnation=Incarnation(1), blocks=(block,))
        sums.draft_bytes += reply_to_wire(reply).ByteSize()
        sums.rounds += 1
        sums.tokens += len(verdict.committed)
    sums.seconds += time.perf_counter() - began_s
    drafter.close("modes")
