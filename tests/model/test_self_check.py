from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from dspark.core.draft import DraftRequest, Proposal
from dspark.model import self_check
from dspark.model.batch import RaggedBatch, Segment
from dspark.model.drafter_runner import BlockDrafter
from dspark.model.target import TargetRunner
from tests.model import tiny


def test_architectures_without_an_attention_function_are_refused() -> None:
    with pytest.raises(ValueError, match="BloomForCausalLM does not take an attention function"):
        TargetRunner.load(tiny.folder("bloom"), num_pages=8)


def test_an_attention_with_unknown_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="passes 's_aux' to its attention"):
        TargetRunner.load(tiny.folder("gpt_oss"), num_pages=8)


def test_layers_that_never_call_are_counted() -> None:
    with pytest.raises(ValueError, match="Hybrid: 2 of 4 layers use the attention function"):
        self_check.check_attention_layers([1, 3], 4, "Hybrid")


def test_wrong_logits_are_refused() -> None:
    runner = tiny.runner()
    expected = self_check.reference(tiny.plain("qwen3"), vocab_size=tiny.VOCAB)
    self_check.check_target(runner, expected)
    wrong = replace(expected, logits=expected.logits.roll(1, dims=0))
    with pytest.raises(ValueError, match="logits of Qwen3ForCausalLM differs from the plain"):
        self_check.check_target(runner, wrong)


def test_a_tap_one_layer_off_is_refused() -> None:
    runner = tiny.runner()
    expected = self_check.reference(tiny.plain("qwen3"), vocab_size=tiny.VOCAB)
    shifted = replace(expected, hidden_states=(*expected.hidden_states[1:], torch.zeros(1)))
    with pytest.raises(ValueError, match="the tapped output of layer -1 differs"):
        self_check.check_target(runner, shifted)


def test_a_pair_that_does_not_fit_is_refused_with_its_accepted_length() -> None:
    target, drafter = tiny.runner(), BlockDrafter(tiny.drafter())
    with pytest.raises(ValueError, match=r"accepted length 1\.\d\d is below 2.*target_layer_ids"):
        self_check.check_pair(target, drafter, min_accepted_length=2.0)
    assert drafter.sessions == 0


def test_a_drafter_that_knows_the_target_passes() -> None:
    target = tiny.runner()
    with_oracle = _Oracle(target)
    measured = self_check.check_pair(target, with_oracle, min_accepted_length=2.0)
    assert measured > tiny.GAMMA


class _Oracle(BlockDrafter):
    """Drafts the target's own greedy continuation: what a perfect drafter would do."""

    def __init__(self, target: TargetRunner) -> None:
        super().__init__(tiny.drafter())
        twin = tiny.runner()
        start = [(index * 7919 + 13) % tiny.VOCAB for index in range(8)]
        tokens = list(start)
        computed = 0
        while len(tokens) < 140:
            segment = Segment(
                token_ids=tokens[computed:],
                start=computed,
                block_table=range(64),
                logits_from=len(tokens) - computed - 1,
            )
            computed = len(tokens)
            logits = twin.forward(RaggedBatch(segments=(segment,))).logits
            tokens.append(int(logits.argmax()))
        self._text = tokens

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        (proposal,) = super().draft(requests)
        base = requests[0].base_length
        return [replace(proposal, tokens=tuple(self._text[base + 1 : base + 1 + tiny.GAMMA]))]
