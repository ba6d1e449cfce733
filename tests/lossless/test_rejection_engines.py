"""Rejection sampling through the real engines: the joint law of a toy pair's output.

Vocabulary 3, four tokens of output, drafter and verifier on their own threads with desk, fences
and admission between them.  The target's law of a token depends on the two tokens before it.  The
joint law of all 81 outputs is enumerated and compared by chi-square; a correct system fails one of
these checks with chance 1e-4.
"""

import itertools
import queue
from collections.abc import Hashable, Iterator, Sequence
from math import sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dspark.config.verifier import VerifierSettings
from dspark.core.budget import ALL
from dspark.core.draft import DraftRequest, Proposal, Rows
from dspark.core.draft_laws import DraftLaws
from dspark.core.generation import Generation
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.pages import PageAllocator
from dspark.core.sampling import Sampling, SamplingMode
from dspark.drafter.engine import DrafterEngine
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import DraftDesk
from dspark.local.memory_port import MemoryPort
from dspark.model.ragged_target import judge_rows
from dspark.model.sampling_rows import sampling_batch
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.engine import VerifierEngine
from dspark.verifier.events import EngineEvent
from dspark.verifier.rounds import BudgetSource
from dspark.verifier.target_port import Kv, Segment
from dspark_kernels.rejection_draft import draw_block
from dspark_kernels.sampling import SamplingBatch, choose_tokens, greedy_tokens
from tests.verifier.harness import Collected

V, LENGTH, PAGE = 3, 4, 4
PROMPT = (0, 1)
SESSIONS = 1500
Z_LIMIT = 4.0

TARGET = torch.from_numpy(np.random.default_rng(1).normal(size=(V, V, V)).astype(np.float32) * 1.2)
DRAFTER = torch.from_numpy(np.random.default_rng(2).normal(size=(V, V, V)).astype(np.float32) * 1.2)
CONFIDENCE = np.random.default_rng(3).choice([0.3, 0.6, 1.0, 1.0], size=V)


class ToyTarget:
    """Logits by the last two tokens; its KV is the tokens."""

    vocab_size, max_context_tokens = V, 4096

    def __init__(self, num_pages: int) -> None:
        self._kv = np.zeros((num_pages, PAGE), dtype=np.int64)

    def _context(self, pages: Sequence[int], stop: int) -> list[int]:
        context: list[int] = self._kv[list(pages)].reshape(-1)[:stop].tolist()
        return context

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        logits, rows = [torch.zeros(0, V)], []
        for part in segments:
            self._write(part)
            stop = part.start + len(part.tokens)
            context = self._context(part.pages, stop)
            for row in range(stop - part.choose, stop):
                logits.append(TARGET[context[row - 1], context[row]][None])
                rows.append((part.sampling, row + 1))
        return judge_rows(torch.cat(logits), rows, segments)

    def _write(self, part: Segment) -> None:
        for position, token in enumerate(part.tokens, part.start):
            self._kv[part.pages[position // PAGE], position % PAGE] = token

    def choose(self, logits: NDArray[np.float32], sampling: Sampling, position: int) -> int:
        raise NotImplementedError

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Rows:
        return np.array(self._context(pages, stop)[start:stop], dtype=np.float32).reshape(-1, 1)

    def import_chunk(self, pages: Sequence[int], start: int, kv: Kv, rows: Rows | None) -> None:
        raise NotImplementedError


class ToyDrafter:
    """Another law of the last two tokens, drawn by the serving path's own code."""

    def __init__(self, gamma: int, *, max_tokens: int = 64, nonces: Iterator[int] | None = None):
        self.gamma = gamma
        self._max_tokens = max_tokens
        self._nonces = nonces or itertools.count(1_000_003, 7919)
        self._rows: dict[Hashable, list[int]] = {}
        self._sampling: dict[Hashable, Sampling] = {}

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        self._rows[key], self._sampling[key] = [], sampling
        return True

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        assert start == len(self._rows[key])
        self._rows[key].extend(int(row[0]) for row in rows)
        return len(self._rows[key])

    def cached(self, key: Hashable) -> int | None:
        return len(self._rows[key]) if key in self._rows else None

    def close(self, key: Hashable) -> None:
        self._rows.pop(key, None)

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        before = torch.tensor([self._rows[request.key][-1] for request in requests])
        anchors = torch.tensor([request.anchor for request in requests])
        last = [before]

        def bias(index: int, previous: torch.Tensor) -> torch.Tensor:
            last.append(previous)
            return DRAFTER[last[-2], previous]

        drawn = draw_block(
            torch.zeros(len(requests), self.gamma, V), anchors, bias, self.sampling(requests),
            max_tokens=self._max_tokens, nonce=next(self._nonces),
        )  # fmt: skip
        return [self._proposal(r, drawn.tokens[n].tolist(), drawn.ids[n], drawn.weights[n])
                for n, r in enumerate(requests)]  # fmt: skip

    def sampling(self, requests: Sequence[DraftRequest]) -> SamplingBatch:
        return sampling_batch(
            [self._sampling[request.key] for request in requests],
            [request.base_length + 1 for request in requests],
        )

    def _proposal(
        self,
        request: DraftRequest,
        tokens: list[int],
        ids: NDArray[np.int64],
        weights: NDArray[np.float16],
    ) -> Proposal:
        kept = weights > 0
        laws = DraftLaws(counts=tuple(kept.sum(1).tolist()), ids=ids[kept], weights=weights[kept])
        # c_k sees x_{k-1}, never x_k.
        rated = [float(CONFIDENCE[token]) for token in (request.anchor, *tokens[:-1])]
        stop = request.max_tokens
        return Proposal(
            tokens=tuple(tokens[:stop]), confidences=tuple(rated[:stop]), laws=laws.first(stop)
        )


class TruncatedCopy(ToyDrafter):
    """Wrong on purpose: it draws from the whole law, and ships its two likeliest tokens."""

    def _proposal(self, request, tokens, ids, weights):  # type: ignore[no-untyped-def]
        shown_ids, shown = [], []
        for token, id_row, row in zip(tokens, ids, weights, strict=True):
            best = sorted({token, int(id_row[row.argmax()])})
            shares = row[best].astype(np.float64)
            shown_ids.append(best)
            shown.append((shares / shares.sum()).astype(np.float16))
        laws = DraftLaws(
            counts=tuple(map(len, shown_ids)),
            ids=np.array(list(itertools.chain(*shown_ids))),
            weights=np.concatenate(shown),
        )
        whole = super()._proposal(request, tokens, ids, weights)
        return Proposal(
            tokens=whole.tokens, confidences=whole.confidences, laws=laws.first(len(whole.tokens))
        )


def outputs(
    drafter: ToyDrafter,
    *,
    budget: BudgetSource | None = None,
    temperature: float = 1.0,
    mode: SamplingMode = SamplingMode.REJECTION,
    sessions: int = SESSIONS,
) -> list[Collected]:
    """Run sessions of seeds 0, 1, ... through the engines."""
    num_pages = 256
    target = ToyTarget(num_pages)
    inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
    port = MemoryPort(inbox.put)
    engine: VerifierEngine

    def rows(session: SessionId, start: int, stop: int) -> Rows:
        return target.rows(engine.intake.sessions[session].pages, start, stop)

    desk = DraftDesk(
        port,
        rows=rows,
        deadline=Deadline(floor_s=30.0, factor=3.0),
        seed_chunk_bytes=4096,
        max_sessions_per_drafter=64,
        vocab_size=V,
    )
    engine = VerifierEngine(
        target,
        PageAllocator(num_pages, PAGE),
        desk,
        None,
        budget or FixedBudget(ALL),
        settings=VerifierSettings(max_sessions=32, max_waiting=sessions, max_batch_tokens=256),
        curve=None,
        block_size=drafter.gamma,
        model_name="toy",
        inbox=inbox,
    )
    drafting = DrafterEngine(
        drafter, incarnation=Incarnation(1), pool="d", max_batch_sessions=64, max_pending_rounds=8
    )
    drafting.start()
    port.connect(ReplicaName("d"), drafting, Incarnation(1))
    sinks = [Collected() for _ in range(sessions)]
    for seed, sink in enumerate(sinks):
        sampling = Sampling(temperature=temperature, seed=seed, mode=mode)
        generation = Generation(
            request_id="r", prompt=PROMPT, max_new_tokens=LENGTH, sampling=sampling
        )
        engine.submit(generation, sink)
    engine.start()
    try:
        for sink in sinks:
            assert sink.wait().error is None
    finally:
        engine.stop()
        drafting.stop()
    assert engine.failure is None
    assert drafting.failure is None
    assert desk.outcomes["malformed"] == 0
    return sinks


def joint_law(temperature: float) -> NDArray[np.float64]:
    p = torch.softmax(TARGET.double() / temperature, dim=-1).numpy()
    law = np.ones((V,) * LENGTH)
    for output in itertools.product(range(V), repeat=LENGTH):
        tokens = [*PROMPT, *output]
        law[output] = np.prod([p[tokens[i], tokens[i + 1], tokens[i + 2]] for i in range(LENGTH)])
    return law


def z_score(sinks: Sequence[Collected], temperature: float) -> float:
    counts = np.zeros((V,) * LENGTH)
    for sink in sinks:
        counts[tuple(sink.tokens)] += 1
    expected = joint_law(temperature).ravel() * len(sinks)
    seen = counts.ravel()
    order = np.argsort(expected)  # rare outputs share a cell
    rare = order[: max(1, int((expected[order].cumsum() < 8).sum()))]
    rest = np.setdiff1d(order, rare)
    cells = np.append(expected[rest], expected[rare].sum())
    found = np.append(seen[rest], seen[rare].sum())
    degrees = len(cells) - 1
    chi = float(((found - cells) ** 2 / cells).sum())
    spread = 2 / (9 * degrees)
    return ((chi / degrees) ** (1 / 3) - (1 - spread)) / sqrt(spread)


def accepted(sinks: Sequence[Collected]) -> int:
    return sum(sink.stats.accepted_draft_tokens for sink in sinks if sink.stats)


class Alternating:
    """A budget that changes every step, by nothing that was drafted."""

    def __init__(self) -> None:
        self._entries = itertools.cycle([ALL, 3, 20, 0, 7])

    def entry(self, *, sessions: int, mean_context_tokens: float, now_s: float) -> int | None:
        return next(self._entries)


@pytest.mark.parametrize(("gamma", "temperature"), [(1, 1.0), (2, 0.7), (3, 1.0), (4, 1.3)])
def test_the_joint_law_is_the_targets(gamma: int, temperature: float) -> None:
    sinks = outputs(ToyDrafter(gamma), temperature=temperature)
    assert accepted(sinks) > SESSIONS / 4
    assert z_score(sinks, temperature) < Z_LIMIT


@pytest.mark.parametrize("budget", [FixedBudget(9), Alternating()])
def test_a_budget_does_not_bend_it(budget: BudgetSource) -> None:
    sinks = outputs(ToyDrafter(3), budget=budget)
    assert accepted(sinks) > 0
    assert z_score(sinks, 1.0) < Z_LIMIT


def test_a_law_that_is_cut_before_the_draw_does_not_bend_it() -> None:
    sinks = outputs(ToyDrafter(3, max_tokens=2))
    assert accepted(sinks) > SESSIONS / 4
    assert z_score(sinks, 1.0) < Z_LIMIT


def test_control_truncating_the_shipped_copy_only_is_caught() -> None:
    assert z_score(outputs(TruncatedCopy(3)), 1.0) > Z_LIMIT


def test_greedy_and_coupled_outputs_know_nothing_of_the_mode() -> None:
    class Shared(ToyDrafter):
        def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
            return [Proposal(tokens=(0,), confidences=(1.0,)) for _ in requests]

    greedy = [s.tokens for s in outputs(Shared(3), temperature=0.0, sessions=3)]
    tokens = list(PROMPT)
    for _ in range(LENGTH):
        tokens.append(int(greedy_tokens(TARGET[tokens[-2], tokens[-1]][None])))
    assert greedy == [tokens[2:]] * 3
    coupled = outputs(Shared(3), mode=SamplingMode.COUPLED, sessions=3)
    for seed, sink in enumerate(coupled):
        tokens = list(PROMPT)
        for _ in range(LENGTH):
            row = sampling_batch([Sampling(temperature=1.0, seed=seed)], [len(tokens)])
            tokens.append(int(choose_tokens(TARGET[tokens[-2], tokens[-1]][None], row)))
        assert sink.tokens == tokens[2:]
