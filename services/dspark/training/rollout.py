"""Play speculative rounds on held-out prompts without a serving engine.

With greedy or coupled sampling the output is the target's alone: so it is generated once, in
dense batches, and the drafter is then run at every position of it. Rounds follow by walking:
from an anchor at s, a accepted drafts lead to the anchor s + a + 1. Accepted lengths are those of
a serving engine that verifies every draft. Rounds of rejection sampling are played on the same
text (``judged``).

Shape legend: S sequences, L tokens, A anchors, G draft positions, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from dspark.model.drafter import DSparkDrafter
from dspark.training.blocks import block_hidden
from dspark.training.generation import DenseTarget
from dspark.training.judged import judge_everywhere
from dspark.training.prompts import HeldOutPrompt
from dspark_kernels.noise import exponential_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Rounds of one prompt that were drafted and verified in full, with what they committed.

    Attributes:
        domain: Domain of the prompt.
        output: Generated token ids, the stop token included.
        committed: Tokens committed by each round (accepted + 1, less past a stop token) [R].
        accepted: Accepted drafts of each round [R]; a stop token ends acceptance.
        ended: Whether a round was cut by a stop token [R].
        logits: Raw confidence logits [R, G]; zeros without a confidence head.
    """

    domain: str
    output: list[int]
    committed: npt.NDArray[np.int64]
    accepted: npt.NDArray[np.int64]
    ended: npt.NDArray[np.bool_]
    logits: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The target's own output on one prompt: ids [L], features [L, m * D], generated from P on.

    ``hidden`` [L, D]: the last hidden states, from which the target's laws follow.
    """

    domain: str
    prompt_length: int
    ids: Tensor
    features: Tensor
    hidden: Tensor
    stop: int | None
    """Position of the first generated stop token."""
    seed: int


@torch.no_grad()
def roll_out(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[HeldOutPrompt],
    *,
    target_layer_ids: tuple[int, ...],
    temperature: float,
    max_new: int,
    spare: int,
    seed: int,
    batch: int = 64,
) -> list[Rollout]:
    """Generate ``max_new + spare`` tokens for each prompt, greedy at 0, else coupled, in fp32.

    Prompt i uses seed ``seed + i``. Rows of a batch differ in prompt length: shorter prompts just
    begin to be chosen earlier.
    """
    target = DenseTarget(model, target_layer_ids)
    encoded = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    stops = torch.tensor(model.generation_config.eos_token_id)
    out: dict[int, Rollout] = {}
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        lengths = torch.tensor([len(encoded[i]) for i in part])
        total = int(lengths.max()) + max_new + spare
        ids = torch.zeros(len(part), total, dtype=torch.long)
        for row, i in enumerate(part):
            ids[row, : lengths[row]] = torch.tensor(encoded[i])
        seeds = torch.tensor([seed + i for i in part])
        cache = target.new_cache(len(part), total)
        at = int(lengths.min())
        features, hidden = target.forward(ids[:, :at], cache)
        made, last = [features], [hidden]
        while at < total:
            logits = target.logits(hidden[:, -1])
            if temperature > 0:
                where = torch.full_like(seeds, at)
                noise = exponential_noise(seeds, torch.zeros_like(seeds), where, logits.shape[1])
                logits = logits / temperature - noise.log()
            free = lengths <= at
            ids[free, at] = logits.argmax(-1)[free]
            features, hidden = target.forward(ids[:, at : at + 1], cache)
            made.append(features)
            last.append(hidden)
            at += 1
        rows, states = torch.cat(made, 1), torch.cat(last, 1)
        for row, i in enumerate(part):
            length = int(lengths[row]) + max_new + spare
            found = torch.isin(ids[row, int(lengths[row]) : length], stops).nonzero()
            out[i] = Rollout(
                domain=prompts[i].domain,
                prompt_length=int(lengths[row]),
                ids=ids[row, :length].clone(),
                features=rows[row, :length].clone(),
                hidden=states[row, :length].clone(),
                stop=int(lengths[row]) + int(found[0]) if len(found) else None,
                seed=seed + i,
            )
    return [out[i] for i in range(len(prompts))]


@torch.no_grad()
def draft_everywhere(
    drafter: DSparkDrafter, rollout: Rollout, anchors: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Draft a block at each anchor [A], the drafter's own tokens feeding its sequential head.

    Returns:
        Drafts [A, G] and raw confidence logits [A, G].
    """
    gamma = drafter.config.gamma
    ids = rollout.ids
    h = block_hidden(drafter, rollout.features[None], anchors[None], ids[anchors][None])[0]
    base = drafter.base_logits(h)
    noise: Tensor | None = None
    if temperature > 0:
        where = torch.arange(int(anchors.min()), int(anchors.max()) + gamma + 1)
        seeds = torch.full_like(where, rollout.seed)
        noise = exponential_noise(seeds, torch.zeros_like(where), where, base.shape[-1]).log()
    previous, state = ids[anchors], None
    drafts, confidences = [], []
    for k in range(gamma):
        if drafter.config.enable_confidence_head:
            confidences.append(drafter.confidence_logits(h[:, k], previous))
        logits = base[:, k]
        bias, state = drafter.head_bias(previous, h[:, k], state)
        if bias is not None:
            logits = logits + bias
        if noise is not None:
            logits = logits / temperature - noise[anchors + k + 1 - int(anchors.min())]
        previous = logits.argmax(-1)
        drafts.append(previous)
    made = torch.stack(drafts, 1)
    if not confidences:
        return made, torch.zeros(made.shape)
    return made, torch.stack(confidences, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """How drafts are judged by rejection: whose laws, and to how many tokens q is cut."""

    target: DenseTarget
    max_q_tokens: int


def play(
    drafter: DSparkDrafter,
    rollout: Rollout,
    *,
    temperature: float,
    max_new: int,
    rejection: Rejection | None = None,
) -> Rounds:
    """Walk the rounds of one output: anchors from the first generated token on.

    Args:
        drafter: The drafter.
        rollout: The output.
        temperature: It was generated with.
        max_new: Tokens walked over.
        rejection: How drafts are judged; None accepts those that equal the output.
    """
    gamma = drafter.config.gamma
    first, end = rollout.prompt_length, rollout.prompt_length + max_new
    if rollout.stop is not None:
        end = min(end, rollout.stop)
    accepted, committed, ended, picked = [], [], [], []
    if end > first:
        anchors = torch.arange(first, end)
        if rejection is None:
            drafts, logits = draft_everywhere(drafter, rollout, anchors, temperature)
            truth = rollout.ids[anchors[:, None] + 1 + torch.arange(gamma)]
            lengths = (drafts == truth).long().cumprod(1).sum(1).tolist()
        else:
            accepts, logits = _judge(drafter, rollout, anchors, temperature, rejection)
            lengths = accepts.tolist()
        at = first
        while at < end:
            length = int(lengths[at - first])
            left = end - at if rollout.stop == end else length + 1
            accepted.append(min(length, left))
            committed.append(min(length + 1, left))
            ended.append(left <= length)
            picked.append(at - first)
            at += length + 1
        chosen = logits[picked].double().numpy()
    else:
        chosen = np.zeros((0, gamma))
    return Rounds(
        domain=rollout.domain,
        output=rollout.ids[first : end + (rollout.stop == end)].tolist(),
        committed=np.array(committed, dtype=np.int64),
        accepted=np.array(accepted, dtype=np.int64),
        ended=np.array(ended, dtype=bool),
        logits=chosen,
    )


@torch.no_grad()
def _judge(
    drafter: DSparkDrafter,
    rollout: Rollout,
    anchors: Tensor,
    temperature: float,
    rejection: Rejection,
) -> tuple[Tensor, Tensor]:
    ids = rollout.ids
    return judge_everywhere(
        drafter,
        block_hidden(drafter, rollout.features[None], anchors[None], ids[anchors][None])[0],
        ids,
        anchors,
        (rejection.target.logits(rollout.hidden) / temperature).softmax(-1),
        temperature=temperature,
        max_q_tokens=rejection.max_q_tokens,
        seed=rollout.seed,
    )
