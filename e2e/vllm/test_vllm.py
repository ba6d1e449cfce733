"""What drafting may not change, and what it must bring, on a real vLLM."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.lossless.evidence import Evidence, chi_square

from dspark.core.draft import Proposal
from dspark.engines.vllm.plugin import register
from dspark.model.target_folder import load_causal_lm, local_folder
from e2e.vllm.conftest import MAX_SESSIONS
from e2e.vllm.drafters import DrafterProcess, Line
from e2e.vllm.engine import MAX_SEQS, Engine, SamplingParams, greedy
from e2e.vllm.prompts import TARGET, prompts

Outputs = dict[str, list[tuple[int, ...]]]

_RECONNECT_S = 1.5
"""Many times what a link takes to be made again."""


def _stable(plain: Outputs) -> list[int]:
    """Prompts on which plain vLLM agrees with itself, whatever else is in the batch."""
    return [
        i for i, (one, eight) in enumerate(zip(plain["1"], plain["8"], strict=True)) if one == eight
    ]


def _same(outputs: list[tuple[int, ...]], plain: Outputs) -> float:
    """Share of the stable prompts with plain vLLM's tokens."""
    stable = [i for i in _stable(plain) if i < len(outputs)]
    return sum(outputs[i] == plain["1"][i] for i in stable) / len(stable)


def _hits(engine: Engine) -> int:
    return int(engine.drafts.steps.desk.outcomes["hit"])


def _nothing_left(engine: Engine) -> bool:
    return not engine.drafts.steps.open_requests and engine.drafts.failure is None


def test_greedy_output_is_plain_vllms_and_tau_is_our_own_engines(
    engine: Engine, plain: Outputs, ours: dict[str, Any]
) -> None:
    for at_once in (1, 8):
        before = engine.counters()
        outputs = engine.generate(prompts(), greedy(), at_once=at_once)
        after = engine.counters()
        drafts, accepted = (
            after[name] - before[name]
            for name in ("vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens")
        )
        tau, own = 1 + accepted / drafts, 1 + ours["accepted"] / ours["drafted"]
        print(
            f"\n{at_once} at once: plain vLLM equals itself on {len(_stable(plain))} of "
            f"{len(plain['1'])} prompts, drafted vLLM equals it on {_same(outputs, plain):.1%} of "
            f"those; accepted length {tau:.3f}, our own engine {own:.3f}; "
            f"outcomes {dict(engine.drafts.steps.desk.outcomes)}"
        )
        assert len(_stable(plain)) >= 95
        assert _same(outputs, plain) == 1.0
        assert tau == pytest.approx(own, rel=0.05)
    assert _nothing_left(engine)


def test_a_drafter_that_dies_comes_back_or_is_slow_changes_no_token(
    engine: Engine, plain: Outputs, drafter: DrafterProcess, line: Line
) -> None:
    hits: dict[str, int] = {}

    def then(name: str, action: Callable[[], object]) -> Callable[[], None]:
        def act() -> None:
            hits[name] = _hits(engine)
            action()
            time.sleep(_RECONNECT_S)

        return act

    def slow(delay_s: float) -> Callable[[], None]:
        return lambda: setattr(line, "delay_s", delay_s)

    given = prompts(60)
    outputs = engine.generate(
        given, greedy(), at_once=8,
        between={
            10: then("killed", drafter.kill),
            20: then("restarted", drafter.restart),
            40: then("slow", slow(0.05)),
            60: then("quick", slow(0.0)),
        },
    )  # fmt: skip
    hits["end"] = _hits(engine)
    print(f"\nhits {hits}; outcomes {dict(engine.drafts.steps.desk.outcomes)}")
    assert _same(outputs, plain) == 1.0
    assert hits["restarted"] - hits["killed"] <= 8  # what had been answered before
    assert hits["slow"] > hits["restarted"]
    assert hits["end"] > hits["quick"]
    assert _nothing_left(engine)


def test_a_drafter_of_another_projection_is_not_asked(
    engine: Engine, plain: Outputs, drafter: DrafterProcess, line: Line, tmp_path: Path
) -> None:
    other = DrafterProcess({"drafter": str(_other_drafter(tmp_path))})
    hits: dict[str, int] = {}

    def swap() -> None:
        line.redirect(other.port)
        time.sleep(_RECONNECT_S)

    def swapped() -> None:
        hits["swapped"] = _hits(engine)

    def back() -> None:
        hits["back"] = _hits(engine)
        line.redirect(drafter.port)
        time.sleep(_RECONNECT_S)

    outputs = engine.generate(
        prompts(32), greedy(), at_once=8, between={10: swap, 11: swapped, 30: back}
    )
    other.stop()
    assert _same(outputs, plain) == 1.0
    assert hits["back"] == hits["swapped"]
    assert _hits(engine) > hits["back"]
    assert _nothing_left(engine)


def _other_drafter(folder: Path) -> Path:
    """The demo's drafter with rows of its own."""
    source = local_folder("builtin:demo/drafter", what="drafter")
    for file in source.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    with safe_open(source / "model.safetensors", framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    tensors["fc.weight"] = tensors["fc.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    return folder


def test_aborted_requests_leave_nothing_behind(engine: Engine, plain: Outputs) -> None:
    given = prompts(24)
    for _ in range(2 * MAX_SESSIONS // len(given) + 1):
        requests = [engine.add(prompt, greedy(200)) for prompt in given]
        for _ in range(8):
            engine.engine.step()
        assert engine.drafts.steps.open_requests
        engine.engine.abort_request(requests)
        engine.settle()
        assert engine.num_waiting_and_running == 0
        assert _nothing_left(engine)
    # More sessions than the drafter has room for were opened since: it must have freed them.
    before = dict(engine.drafts.steps.desk.outcomes)
    outputs = engine.generate(given, greedy(), at_once=8)
    after = engine.drafts.steps.desk.outcomes
    assert _same(outputs, plain) == 1.0
    assert after["full"] == before.get("full", 0)
    assert after["hit"] > before["hit"]


def test_preempted_requests_go_on_as_if_nothing_had_happened(engine: Engine) -> None:
    given = prompts(MAX_SEQS)
    calm = engine.generate(given, greedy(160), at_once=4)
    before = engine.counters()["vllm:num_preemptions"]
    crowded = engine.generate(given, greedy(160), at_once=MAX_SEQS)
    preemptions = engine.counters()["vllm:num_preemptions"] - before
    same = sum(a == b for a, b in zip(calm, crowded, strict=True)) / len(given)
    print(f"\n{preemptions} preemptions, {same:.1%} of the outputs unchanged")
    assert preemptions > 0
    assert same == 1.0
    assert _nothing_left(engine)


def test_the_plugin_says_nothing_where_vllm_is_supported(caplog: pytest.LogCaptureFixture) -> None:
    register()
    assert not caplog.records


# --- the law of sampling ---------------------------------------------------------------------

_TEMPERATURE, _TOP_K, _LAW_TOKENS, _SAMPLES = 0.8, 3, 5, 4000


def test_sampling_keeps_the_targets_law_and_a_biased_draft_is_noticed(engine: Engine) -> None:
    # The most open of a few texts: many outcomes, each of them often.
    law, prompt = max(
        ((_law_of(prompt), prompt) for prompt in prompts(12)), key=lambda pair: _entropy(pair[0])
    )
    honest = _sampled(engine, prompt, law)
    with _argmax_drafts(engine):
        biased = _sampled(engine, prompt, law)
    print(f"\nhonest: {honest}\nargmax'd: {biased}")
    assert honest.holds
    assert not biased.holds


def _law_of(prompt: list[int]) -> dict[tuple[int, ...], float]:
    """The chance of each continuation, from the model itself."""
    model = load_causal_lm(TARGET, device="cpu")
    law: dict[tuple[int, ...], float] = {(): 1.0}
    with torch.inference_mode():
        for _ in range(_LAW_TOKENS):
            paths = list(law)
            logits = (
                model(torch.tensor([[*prompt, *path] for path in paths])).logits[:, -1].double()
            )
            top, tokens = (logits / _TEMPERATURE).topk(_TOP_K, dim=-1)
            shares = top.softmax(dim=-1)
            law = {
                (*path, int(tokens[row, k])): law[path] * float(shares[row, k])
                for row, path in enumerate(paths)
                for k in range(_TOP_K)
            }
    return law


def _entropy(law: dict[tuple[int, ...], float]) -> float:
    return -sum(share * math.log(share) for share in law.values())


def _sampled(engine: Engine, prompt: list[int], law: dict[tuple[int, ...], float]) -> Evidence:
    sampling = SamplingParams(
        temperature=_TEMPERATURE, top_k=_TOP_K, max_tokens=_LAW_TOKENS + 3, ignore_eos=True
    )
    before = engine.counters()["vllm:spec_decode_num_accepted_tokens"]
    outputs = engine.generate([prompt] * _SAMPLES, sampling, at_once=MAX_SEQS)
    assert engine.counters()["vllm:spec_decode_num_accepted_tokens"] - before > _SAMPLES
    counts = Counter(output[:_LAW_TOKENS] for output in outputs)
    paths = [*law, *(path for path in counts if path not in law)]
    return chi_square(
        np.array([counts[path] for path in paths]),
        np.array([law.get(path, 0.0) for path in paths]),
    )


@contextmanager
def _argmax_drafts(engine: Engine) -> Iterator[None]:
    """Each draft becomes the likeliest token of the law that it claims to be drawn from."""
    honest = engine.drafts.steps.propose

    def argmax(proposal: Proposal) -> Proposal:
        assert proposal.laws is not None
        stops = list(itertools.accumulate(proposal.laws.counts))
        parts = zip((0, *stops[:-1]), stops, strict=True)
        tokens = tuple(
            int(proposal.laws.ids[a + int(proposal.laws.weights[a:b].argmax())]) for a, b in parts
        )
        return replace(proposal, tokens=tokens)

    engine.drafts.steps.propose = lambda decoding: {
        request: argmax(proposal) for request, proposal in honest(decoding).items()
    }
    try:
        yield
    finally:
        del engine.drafts.steps.propose
