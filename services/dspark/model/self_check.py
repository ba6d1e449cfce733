"""Checks made when a model loads: what they let pass is computed right, or not at all.

A wrong attention, a tap one layer off or a drafter of another target raises no error by
itself; it only makes wrong tokens, or few accepted ones.  So the target is compared with the
plain Hugging Face model on a short prompt, and the pair must reach an accepted length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from dspark.core.draft import DraftRequest
from dspark.core.sampling import Sampling
from dspark.core.verdict import judge
from dspark.model.batch import RaggedBatch, Segment

if TYPE_CHECKING:
    from dspark.model.drafter_runner import BlockDrafter
    from dspark.model.target import TargetRunner

PROMPT_TOKENS = 48
"""Length of the checked prompt: several pages, and more than a tiny sliding window."""

TOLERANCE = 1e-3
"""Allowed difference, relative to the largest reference value (at least 1), in float32."""

HALF_TOLERANCE = 5e-2
"""The same where the weights are float16 or bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What the plain model gives for the checked prompt.

    Attributes:
        token_ids: The prompt, n tokens.
        logits: [n, V] float32.
        hidden_states: L + 1 tensors [n, D]: embeddings, then each layer's output.
    """

    token_ids: tuple[int, ...]
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


def reference(model: nn.Module, *, vocab_size: int, num_tokens: int = PROMPT_TOKENS) -> Reference:
    """Run the plain model, as loaded, on a fixed prompt."""
    token_ids = tuple((index * 7919 + 13) % vocab_size for index in range(num_tokens))
    device = next(model.parameters()).device
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([token_ids], device=device),
            use_cache=False,
            output_hidden_states=True,
        )
    return Reference(
        token_ids=token_ids,
        logits=output.logits[0].float(),
        hidden_states=tuple(hidden[0] for hidden in output.hidden_states),
    )


def check_attention_layers(called: Sequence[int], num_layers: int, architecture: str) -> None:
    """Refuse a model some of whose layers never called the attention function.

    Raises:
        ValueError: Naming how many did.
    """
    if sorted(called) != list(range(num_layers)):
        raise ValueError(
            f"{architecture}: {len(called)} of {num_layers} layers use the attention function; "
            "the others keep a state that pages do not hold: this architecture cannot be served"
        )


def check_target(runner: "TargetRunner", expected: Reference) -> None:
    """Compare a runner with the plain model: logits, and the tapped hidden states.

    The prompt goes through in two chunks, so pages, positions and cached keys are used.  The
    pages written are 0, 1, ...: check before any session exists.

    Raises:
        ValueError: Naming the first quantity that differs, and by how much.
    """
    page_tokens = runner.pool.page_tokens
    count = min(len(expected.token_ids), runner.pool.num_pages * page_tokens)
    table = tuple(range(-(-count // page_tokens)))
    cut = max(1, count // 3)
    for start, stop in ((0, cut), (cut, count)):
        if start == stop:
            continue
        segment = Segment(
            token_ids=expected.token_ids[start:stop],
            start=start,
            block_table=table,
            logits_from=0,
        )
        output = runner.forward(RaggedBatch(segments=(segment,)))
        _compare(
            f"logits of {runner.info.architecture}",
            output.logits,
            expected.logits[start:stop],
            runner.dtype,
        )
        for layer, tapped in zip(runner.tap_layers, runner.last_taps, strict=True):
            _compare(
                f"the tapped output of layer {layer}",
                tapped,
                expected.hidden_states[layer + 1][start:stop],
                runner.dtype,
            )


def _compare(what: str, measured: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
    scale = max(1.0, float(expected.abs().max()))
    difference = float((measured.float() - expected.float()).abs().max()) / scale
    if not difference <= tolerance:
        raise ValueError(
            f"self-check: {what} differs from the plain model by {difference:.2g} (allowed "
            f"{tolerance:g}): this architecture is not computed right and cannot be served"
        )


PAIR_TOKENS = 96
"""Length of the greedy text on which a pair is measured."""


def accepted_length(
    target: "TargetRunner",
    drafter: "BlockDrafter",
    prompt: Sequence[int],
    *,
    new_tokens: int = PAIR_TOKENS,
) -> float:
    """Mean tokens committed a round when the pair writes a greedy text, verifying everything.

    Uses pages 0, 1, ... of the target and a session of its own in the drafter: measure before
    any session exists.
    """
    room = target.pool.num_pages * target.pool.page_tokens - drafter.gamma - 1
    end = min(len(prompt) + new_tokens, room)
    table = tuple(range(target.pool.num_pages))
    key = ("self-check",)

    def chosen(tokens: Sequence[int], start: int, logits_from: int) -> list[int]:
        segment = Segment(token_ids=tokens, start=start, block_table=table, logits_from=logits_from)
        logits = target.forward(RaggedBatch(segments=(segment,))).logits
        picked: list[int] = logits.argmax(-1).tolist()
        return picked

    tokens = [*prompt, *chosen(prompt, 0, len(prompt) - 1)]
    rounds = 0
    if not drafter.open(key, Sampling()):
        raise ValueError("the drafter has no room for the self-check's session")
    try:
        while len(tokens) < end:
            base = len(tokens) - 1
            cached = drafter.cached(key) or 0
            drafter.append(key, cached, target.rows(table, cached, base))
            request = DraftRequest(
                key=key, anchor=tokens[-1], base_length=base, max_tokens=drafter.gamma
            )
            drafts = drafter.draft([request])[0].tokens
            verdict = judge(
                drafts,
                chosen([tokens[-1], *drafts], base, 0),
                stop_tokens=(),
                remaining=drafter.gamma + 1,
            )
            tokens.extend(verdict.committed)
            rounds += 1
    finally:
        drafter.close(key)
    return (len(tokens) - len(prompt) - 1) / max(rounds, 1)


def check_pair(
    target: "TargetRunner",
    drafter: "BlockDrafter",
    *,
    min_accepted_length: float,
    prompt: Sequence[int] | None = None,
) -> float:
    """Refuse a pair whose drafts the target does not take; return the measured length.

    Args:
        target: Loaded with the drafter's projection.
        drafter: The drafter.
        min_accepted_length: Floor; 1 is what no drafter at all gives.
        prompt: Token ids to start from; default a fixed short one.

    Raises:
        ValueError: Below the floor.
    """
    start = tuple(prompt or ((index * 7919 + 13) % target.vocab_size for index in range(8)))
    measured = accepted_length(target, drafter, start)
    if measured < min_accepted_length:
        raise ValueError(
            f"self-check: mean accepted length {measured:.2f} is below {min_accepted_length:g}: "
            "the usual cause is a drafter with wrong target_layer_ids or of another layout or "
            "target; check the drafter, or lower min_accepted_length"
        )
    return measured
