"""A vLLM model runner and its scheduler, as far as the proposer sees them, over integers.

A token's hidden state says which token it is, so that a slip in slots, positions or requests
shows in the drafts: the drafter here knows every text, but only from the rows that it was sent.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dspark.config.verifier import DraftingSettings
from dspark.config.vllm import VllmSettings
from dspark.core.budget import Budget
from dspark.core.draft import DraftBlock, DraftStatus, Round, RoundReply, Rows
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, ReplicaName, SessionId
from dspark.core.sampling import Sampling
from dspark.drafting.events import Connected, DraftEvent, Lost, Replied, Seeded
from dspark.engines.vllm.hooks import install
from dspark.engines.vllm.runner import RunnerDrafts, TensorGroup
from dspark.model.pair import PairIdentity
from dspark.model.projection import Projection
from tests.fakes import VOCAB, continuation, next_token

BLOCK_TOKENS, NUM_BLOCKS, GAMMA, MAX_MODEL_LEN = 4, 64, 5, 200
GREEDY = Sampling()


class FullAttentionSpec:
    block_size = BLOCK_TOKENS


class FakeModel:
    def __init__(self) -> None:
        self.aux_layers: tuple[int, ...] = ()

    def set_aux_hidden_state_layers(self, layers: tuple[int, ...]) -> None:
        self.aux_layers = tuple(sorted(layers))


def params(**changes: Any) -> SimpleNamespace:
    """vLLM's sampling parameters of a greedy request."""
    values: dict[str, Any] = {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_tokens": 40,
        "all_stop_token_ids": set(),
        "stop_token_ids": [],
        "extra_args": None,
        "ignore_eos": False,
        "structured_outputs": None,
    }
    return SimpleNamespace(**(values | changes))


def new_runner_class() -> Any:
    """A class of its own for each test, because hooks are set on the class."""

    class FakeRunner:
        """One KV cache group; block 0 is nobody's, as in vLLM."""

        def __init__(self) -> None:
            self.device = torch.device("cpu")
            self.use_aux_hidden_state_outputs = False
            self.execute_model_state: Any = None
            self.requests: dict[str, Any] = {}
            self.input_batch = SimpleNamespace(req_ids=[], num_computed_tokens_cpu=None)
            self.kv_cache_config = SimpleNamespace(
                num_blocks=NUM_BLOCKS,
                kv_cache_groups=[SimpleNamespace(kv_cache_spec=FullAttentionSpec())],
            )
            self._draft_probs: Any = None
            self._draft_prob_req_ids: Any = None
            self.model = FakeModel()
            self.drafter: Any = None

        def get_model(self) -> FakeModel:
            return self.model

        def _get_spec_decode_draft_probs(self) -> None: ...

        def propose_draft_token_ids(self) -> None: ...

        def _sample(self, logits: object, metadata: object) -> str:
            return "plainly" if metadata is None else "by rejection"

        def _setup_eagle3_aux_hidden_state_outputs(self) -> None: ...

        def execute_model(self, scheduler_output: Any) -> None:
            self.execute_model_state = None
            for request in scheduler_output.finished_req_ids:
                del self.requests[request]
            if not scheduler_output.total_num_scheduled_tokens:
                return
            values = [float(token) for token in scheduler_output.flat_tokens]
            # [T, 2]; RMS-normalised later, so the token is the ratio of the two.  Padded, as CUDA
            # graphs are.
            state = torch.tensor([[token, 1.0] for token in values] + [[0.0, 0.0]] * 3)
            self.execute_model_state = SimpleNamespace(
                scheduler_output=scheduler_output,
                aux_hidden_states=[state * 0 + 1, state] if self.model.aux_layers else None,
            )

    return FakeRunner


class KnowingDrafter:
    """A port whose drafter knows how every text goes on, from its rows alone."""

    def __init__(self, post: Callable[[DraftEvent], None]) -> None:
        self._post = post
        self.name = ReplicaName("d1")
        self.silent = False
        self.answers_late: list[Replied] = []
        self.cached: dict[SessionId, list[int]] = {}
        self.sampling: dict[SessionId, Sampling] = {}
        self.rounds: list[Round] = []
        self.closed = threading.Event()

    @property
    def port(self) -> "KnowingDrafter":
        return self

    def close(self) -> None:
        self.closed.set()

    def connect(self, incarnation: int = 1) -> None:
        self._post(Connected(drafter=self.name, incarnation=Incarnation(incarnation)))

    def lose(self, incarnation: int = 1) -> None:
        self.cached.clear()
        self._post(Lost(drafter=self.name, incarnation=Incarnation(incarnation)))

    def seed(
        self,
        drafter: ReplicaName,
        session: SessionId,
        seeding: int,
        sampling: Sampling,
        rows: Sequence[tuple[int, Rows]],
    ) -> None:
        self.cached[session] = []
        self.sampling[session] = sampling
        for start, chunk in rows:
            assert start == len(self.cached[session])
            self.cached[session] += _tokens(chunk)
        self._post(
            Seeded(
                drafter=drafter,
                incarnation=Incarnation(1),
                session=session,
                seeding=seeding,
                status=DraftStatus.OK,
                cached_rows=len(self.cached[session]),
            )
        )

    def send(self, drafter: ReplicaName, round_: Round) -> int:
        self.rounds.append(round_)
        for session in round_.released:
            del self.cached[session]
        blocks = []
        for part in round_.sessions:
            mine = self.cached[part.session]
            assert part.rows_start == len(mine)
            mine += _tokens(part.rows)
            assert len(mine) == part.base_length
            tokens = continuation([*mine, part.anchor], part.max_tokens, GREEDY)
            blocks.append(
                DraftBlock(
                    session=part.session,
                    base_length=part.base_length,
                    status=DraftStatus.OK,
                    tokens=tuple(tokens),
                    confidences=(0.9,) * len(tokens),
                    laws=_laws(tokens) if self.sampling[part.session].rejects else None,
                )
            )
        answer = Replied(
            drafter=drafter,
            reply=RoundReply(
                number=round_.number, incarnation=Incarnation(1), blocks=tuple(blocks)
            ),
            num_bytes=0,
        )
        if self.silent:
            self.answers_late.append(answer)
        elif round_.sessions:
            self._post(answer)
        return 0

    def answer_late(self) -> None:
        self.silent = False
        for answer in self.answers_late:
            self._post(answer)
        self.answers_late = []


def _tokens(rows: Rows) -> list[int]:
    return [round(float(row[0]) / float(row[1])) for row in rows]


def _laws(tokens: Sequence[int]) -> DraftLaws:
    """Each token with three quarters of its law, its successor with the rest."""
    ids = [sorted((token, (token + 1) % VOCAB)) for token in tokens]
    weights = [
        [0.75 if v == token else 0.25 for v in pair]
        for token, pair in zip(tokens, ids, strict=True)
    ]
    return DraftLaws(
        counts=(2,) * len(tokens),
        ids=np.array(ids, dtype=np.int64).ravel(),
        weights=np.array(weights, dtype=np.float16).ravel(),
    )


IDENTITY = PairIdentity(
    target_digest="t", tokenizer_digest="k", vocab_size=VOCAB, hidden_size=2, block_size=GAMMA,
    target_layer_ids=(3, 1), projection_id="p" * 32,
)  # fmt: skip
# The tap of layer 3 comes first in fc, though vLLM hands it out last: only its half is looked at.
PROJECTION = Projection(fc=torch.eye(2, 4), hidden_norm=torch.ones(2), eps=0.0, projection_id="p")


class Engine:
    """vLLM's scheduler and worker around a proposer: ``step`` until the text is long enough."""

    def __init__(
        self,
        *,
        group: TensorGroup | None = None,
        deadline_s: float = 5.0,
        line: Path | None = None,
    ) -> None:
        self.budget: Callable[[Budget], object] = lambda _: None
        self.now_s = 0.0
        self.drafter: KnowingDrafter
        self.drafts = RunnerDrafts(
            VllmSettings(
                drafter="d",
                drafters=("here:1",),
                rows_dtype="float32",
                line=line,
                drafting=DraftingSettings(deadline_floor_s=deadline_s, deadline_factor=1.0),
            ),
            IDENTITY,
            PROJECTION,
            num_speculative_tokens=GAMMA,
            max_model_len=MAX_MODEL_LEN,
            connect=self._connect,
            clock=lambda: self.now_s,
        )
        runner_class = new_runner_class()
        install(runner_class, RunnerDrafts)
        self.runner = runner_class()
        self.runner.drafter = self.drafts
        if group is None:
            self.runner._setup_eagle3_aux_hidden_state_outputs()
        else:
            self.drafts.attach(self.runner, group)
        self.tokens: dict[str, list[int]] = {}
        self.prompt: dict[str, int] = {}
        self.computed: dict[str, int] = {}
        self.pending: dict[str, list[int]] = {}
        self.accepted: list[int] = []
        self.free = list(range(NUM_BLOCKS - 1, 0, -1))
        self._finished: set[str] = set()
        self._preempted: set[str] = set()
        self._resumed: set[str] = set()

    def _connect(
        self, post: Callable[[DraftEvent], None], on_budget: Callable[[Budget], object]
    ) -> KnowingDrafter:
        self.budget = on_budget
        self.drafter = KnowingDrafter(post)
        return self.drafter

    def add(
        self, request: str, prompt: Sequence[int], *, cached: int = 0,
        blocks: Sequence[int] = (), **changes: Any,
    ) -> None:  # fmt: skip
        """Add a request whose first ``cached`` tokens hit these blocks."""
        self.tokens[request] = list(prompt)
        self.prompt[request] = len(prompt)
        self.computed[request] = cached
        self.runner.requests[request] = SimpleNamespace(
            block_ids=(list(blocks),), sampling_params=params(**changes), output_token_ids=[]
        )

    def blocks(self, request: str) -> list[int]:
        found: list[int] = self.runner.requests[request].block_ids[0]
        return found

    def finish(self, request: str) -> None:
        """End or abort a request: the worker hears of it with the next step."""
        self.free += self.blocks(request)
        self._finished.add(request)
        for state in (self.tokens, self.prompt, self.computed, self.pending):
            state.pop(request, None)  # type: ignore[attr-defined]

    def preempt(self, request: str) -> None:
        """Take a request's KV away; ``resume`` brings it back."""
        self.free += self.blocks(request)
        self.runner.requests[request].block_ids = ([],)
        self._preempted.add(request)
        self.computed[request] = -1
        self.pending.pop(request, None)

    def resume(self, request: str) -> None:
        self.computed[request] = 0
        self._resumed.add(request)

    def step(self, *, chunk: int = 100) -> None:
        """Schedule everything, run it, commit, and ask for drafts."""
        running = [request for request in self.tokens if self.computed[request] >= 0]
        counts: dict[str, int] = {}
        flat: list[int] = []
        for request in running:
            ahead = [*self.tokens[request], *self.pending.get(request, [])]
            start = self.computed[request]
            counts[request] = min(chunk, len(ahead) - start)
            flat += ahead[start : start + counts[request]]
            while len(self.blocks(request)) * BLOCK_TOKENS < start + counts[request]:
                self.blocks(request).append(self.free.pop())
        scheduled = SimpleNamespace(
            finished_req_ids=self._finished,
            preempted_req_ids=self._preempted,
            scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=self._resumed),
            kv_cache_block_copies=None,
            num_scheduled_tokens=counts,
            scheduled_spec_decode_tokens={
                request: drafts[: counts[request] - 1]
                for request, drafts in self.pending.items()
                if counts.get(request, 0) > 1
            },
            total_num_scheduled_tokens=len(flat),
            flat_tokens=flat,
        )
        self._finished, self._preempted, self._resumed = set(), set(), set()
        batch = self.runner.input_batch
        batch.req_ids = running
        batch.num_computed_tokens_cpu = np.array([self.computed[request] for request in running])
        self.runner.execute_model(scheduled)
        if flat:
            self._sample(running, counts)

    def _sample(self, running: Sequence[str], counts: Mapping[str, int]) -> None:
        sampled = [self._judge(request, counts[request]) for request in running]
        lengths = np.array([len(self.tokens[request]) for request in running])
        texts = np.zeros((len(running), MAX_MODEL_LEN), dtype=np.int32)
        for index, request in enumerate(running):
            texts[index, : lengths[index]] = self.tokens[request]
        self.runner._draft_probs = self.runner._draft_prob_req_ids = None
        answer = self.drafts.propose(sampled, lengths, texts, slot_mappings=None)
        self.pending = {r: drafts for r, drafts in zip(running, answer, strict=True) if drafts}

    def _judge(self, request: str, count: int) -> list[int]:
        """Commit what the target says, as greedy verification would."""
        drafts = self.pending.pop(request, [])[: count - 1]  # a small step carries a prefix
        self.computed[request] += count
        if self.computed[request] < len(self.tokens[request]):
            return []  # the prompt goes on
        new: list[int] = []
        for draft in [*drafts, None]:
            new.append(next_token([*self.tokens[request], *new], GREEDY))
            if new[-1] != draft:
                break
        if drafts:
            self.accepted.append(len(new) - 1)
        self.tokens[request] += new
        self.runner.requests[request].output_token_ids += new
        self.computed[request] = len(self.tokens[request]) - 1
        return new

    def output(self, request: str) -> list[int]:
        return self.tokens[request][self.prompt[request] :]
